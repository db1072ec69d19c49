"""The loop: what an iteration does, in which order, and what it leaves."""

import csv
import dataclasses
from pathlib import Path

import pytest
import torch

from ratpg.algorithms.checks import BadConfig
from ratpg.training import trainer as module
from ratpg.training.trainer import Trainer, load_policy
from short_runs import ROLLOUT, short_config, train


def test_a_run_ends_after_the_rollout_that_reaches_its_timesteps(tmp_path: Path) -> None:
    config = short_config("CartPole-v1", tmp_path / "run")
    assert train(config).timesteps == config.total_timesteps
    between = dataclasses.replace(config, total_timesteps=2 * ROLLOUT + 1, run_dir=tmp_path / "between")
    assert train(between).timesteps == 3 * ROLLOUT


def test_the_rows_handed_out_are_the_rows_written(tmp_path: Path) -> None:
    rows: list[dict[str, float]] = []
    Trainer.start(short_config("CartPole-v1", tmp_path / "run")).run(on_row=rows.append)
    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        written = list(csv.DictReader(file))
    assert written == [{name: str(value) for name, value in row.items()} for row in rows]
    assert rows[-1]["sps"] > 0
    assert rows[-1]["wall_time"] > rows[0]["wall_time"] > 0


def test_the_return_in_the_metrics_is_of_raw_rewards(tmp_path: Path) -> None:
    """Three steps that pay 1, 2, 3, whatever the rewards are scaled to for learning."""
    rows: list[dict[str, float]] = []
    Trainer.start(short_config("ToyTruncating-v0", tmp_path / "run", normalize_rewards=True, stagger=False)).run(
        on_row=rows.append
    )
    assert rows[-1]["episode_return_mean"] == 6.0
    assert rows[-1]["episode_length_mean"] == 3.0
    assert rows[0]["episodes"] == 4 * 8  # four environments, 32 steps each, four steps an episode and its reset


def test_observations_are_normalized_by_statistics_of_valid_steps_alone(tmp_path: Path) -> None:
    trainer = train(short_config("ToyTerminating-v0", tmp_path / "run", 2))
    moments = trainer.policy.normalizer.moments
    assert moments.count.item() == 2 * ROLLOUT * 3 / 4
    assert moments.mean[1].item() == pytest.approx(1.0)  # steps taken when acting: 0, 1, 2


def test_the_policy_that_is_updated_is_the_one_that_acted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The normaliser moves after the update: before it, ratios would start away from one."""
    seen = []
    original = module.make_batch

    def spy(policy: torch.nn.Module, *rest: object) -> object:
        seen.append(policy.normalizer.moments.count.item())
        return original(policy, *rest)

    monkeypatch.setattr(module, "make_batch", spy)
    train(short_config("CartPole-v1", tmp_path / "run", 2))
    assert seen[0] == 0
    assert 0 < seen[1] <= ROLLOUT


@pytest.mark.parametrize("least", [-2.5, None])
def test_the_noise_of_actions_does_not_fall_below_its_bound(least: float | None, tmp_path: Path) -> None:
    trainer = Trainer.start(short_config("Pendulum-v1", tmp_path / "run", min_log_std=least))
    log_std = trainer.policy.actor.log_std.value
    with torch.no_grad():
        log_std.fill_(-3.0)
    trainer.iterate()
    assert log_std.item() == least if least else log_std.item() < -2.5


@pytest.mark.parametrize("normalize", [True, False])
def test_rewards_are_normalized_if_asked(normalize: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    original = module.make_batch

    def spy(policy: object, rollout: object, rewards: torch.Tensor, *rest: object) -> object:
        seen.append((rollout.rewards, rewards))
        return original(policy, rollout, rewards, *rest)

    monkeypatch.setattr(module, "make_batch", spy)
    train(short_config("Pendulum-v1", tmp_path / "run", 1, normalize_rewards=normalize))
    raw, used = seen[0]
    ratio = used / raw
    assert torch.allclose(ratio, ratio[0, 0])  # one scale, here without clipping
    assert (ratio[0, 0].item() == 1.0) is not normalize


@pytest.mark.parametrize("backend", ["envpool", "gymnasium"])
def test_episodes_so_short_that_minibatches_run_out_of_rows_do_no_harm(backend: str, tmp_path: Path) -> None:
    env_id = "ToyTerminating-v0" if backend == "gymnasium" else "CartPole-v1"
    config = short_config(
        env_id, tmp_path / "run", backend=backend, num_steps=2, algorithm={"minibatches": 8, "critic_minibatches": 8}
    )
    trainer = train(dataclasses.replace(config, total_timesteps=400))
    for name, value in trainer.policy.state_dict().items():
        assert value.isfinite().all(), name


def test_a_rollout_in_which_every_step_only_resets_does_no_harm_or_is_refused(tmp_path: Path) -> None:
    """All four environments end together and every fourth step is a reset: of rollouts of one step, every fourth."""
    algorithm = {"minibatches": 1, "critic_minibatches": 1}
    try:
        config = short_config("ToyTerminating-v0", tmp_path / "run", num_steps=1, algorithm=algorithm)
    except BadConfig as refusal:
        assert "num_steps" in str(refusal)
        return
    trainer = train(dataclasses.replace(config, total_timesteps=32))
    for name, value in trainer.policy.state_dict().items():
        assert value.isfinite().all(), name


def test_a_folder_that_holds_a_run_is_refused(tmp_path: Path) -> None:
    config = short_config("CartPole-v1", tmp_path / "run", 1)
    train(config)
    with pytest.raises(BadConfig, match="already holds a run"):
        Trainer.start(config)


def test_an_empty_folder_may_exist_already(tmp_path: Path) -> None:
    assert train(short_config("CartPole-v1", tmp_path, 1)).timesteps == ROLLOUT


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_the_policy_of_a_checkpoint_acts_as_the_one_that_was_trained(env_id: str, tmp_path: Path) -> None:
    trainer = train(short_config(env_id, tmp_path / "run", 3))
    policy, config = load_policy(tmp_path / "run")
    assert config == trainer.config
    observations = torch.randn(50, *policy.spec.observation_shape, generator=torch.Generator().manual_seed(0))
    assert (policy.act(observations) == trainer.policy.act(observations)).all()
    assert policy.normalizer.moments.count > 0
