"""What a run keeps when something goes wrong in the middle of it."""

import itertools
import json
import math
from pathlib import Path

import pytest

from ratpg.algorithms.checks import BadConfig
from ratpg.rl.rollout import NonFiniteExperience
from ratpg.training import checkpoint
from ratpg.training.logging import MetricsWriter, read_metrics
from ratpg.training.trainer import Trainer, TrainingDiverged, load_policy
from short_runs import ROLLOUT, short_config, train


def test_when_training_diverges_the_last_good_checkpoint_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer.start(short_config("CartPole-v1", tmp_path / "run", checkpoint_interval=0.0))
    update = trainer.algorithm.update

    def diverge_in_the_third(batch, remaining):
        metrics = update(batch, remaining)
        return metrics | {"kl": math.nan} if trainer.timesteps == 2 * ROLLOUT else metrics

    monkeypatch.setattr(trainer.algorithm, "update", diverge_in_the_third)
    with pytest.raises(TrainingDiverged, match=rf"{2 * ROLLOUT} timesteps \(kl not finite\)"):
        trainer.run()
    assert checkpoint.load(tmp_path / "run")["timesteps"] == 2 * ROLLOUT


@pytest.mark.parametrize(
    ("algo", "options"),
    [
        ("rat", {"entropy_coefficient": 1e30}),
        ("rat", {"step_size": 1e10, "step_size_bounds": (1.0, 1e15)}),
        ("rat", {"critic": "gauss-newton", "step_size": 100.0, "step_size_bounds": (1.0, 1000.0)}),
        ("acktr", {"kl_clip": 1e8, "max_step_size": 1e8}),
        ("acktr", {"kl_clip": 1e8, "max_step_size": 1e8, "eigenvalue_corrected": True}),
    ],
)
def test_an_update_that_diverges_within_says_so(algo: str, options: dict[str, object], tmp_path: Path) -> None:
    """The next mini-batch of the same rollout meets a network, or a matrix, that is not finite."""
    trainer = Trainer.start(short_config("Pendulum-v1", tmp_path / "run", algo=algo, algorithm=options))
    with pytest.raises(
        TrainingDiverged, match=r"diverged after \d+ timesteps \(.*\); the last good checkpoint is kept"
    ):
        trainer.run()
    checkpoint.load(tmp_path / "run")


def test_a_critic_that_diverges_beside_the_next_rollout_is_found_before_it_is_saved(tmp_path: Path) -> None:
    trainer = Trainer.start(short_config("CartPole-v1", tmp_path / "run", threads=2, checkpoint_interval=0.0))
    critic = trainer.algorithm.critic
    assert critic is not None
    assert critic.overlap
    fit, calls = critic._fit, itertools.count(1)

    def diverge_in_the_third(*args):
        losses = fit(*args)
        return [loss * math.nan for loss in losses] if next(calls) == 3 else losses

    critic._fit = diverge_in_the_third
    with pytest.raises(TrainingDiverged, match="value_loss not finite"):
        trainer.run()
    assert checkpoint.load(tmp_path / "run")["timesteps"] == 2 * ROLLOUT


def test_after_a_fault_of_the_simulator_the_run_resumes_with_fresh_episodes(tmp_path: Path) -> None:
    """With the environments' states it would run into the same fault again."""
    trainer = Trainer.start(short_config("CartPole-v1", tmp_path / "run", rollouts=3))
    receive = trainer.envs.receive

    def fail_in_the_second(group):
        reward, terminated, truncated = receive(group)
        return (reward * math.nan, terminated, truncated) if trainer.timesteps else (reward, terminated, truncated)

    trainer.envs.receive = fail_in_the_second
    with pytest.raises(NonFiniteExperience, match=f"began at {ROLLOUT} timesteps"):
        trainer.run()
    resumed, exact = Trainer.resume(tmp_path / "run")
    assert (resumed.timesteps, exact) == (ROLLOUT, False)
    assert resumed.run()


def test_on_a_full_disk_the_checkpoint_is_up_to_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = MetricsWriter.write

    def full_in_the_third(self, row):
        if row["timesteps"] == 3 * ROLLOUT:
            raise OSError(28, "No space left on device")
        write(self, row)

    monkeypatch.setattr(MetricsWriter, "write", full_in_the_third)
    with pytest.raises(OSError, match="No space left"):
        train(short_config("CartPole-v1", tmp_path / "run"))
    assert checkpoint.load(tmp_path / "run")["timesteps"] == 3 * ROLLOUT
    assert read_metrics(tmp_path / "run")["timesteps"][-1] == 2 * ROLLOUT


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Humanoid-v5"])
def test_a_run_moves_to_another_backend_with_fresh_episodes(env_id: str, tmp_path: Path) -> None:
    """Of Humanoid one simulator has bounds of 0.4, the other what single precision makes of it."""
    train(short_config(env_id, tmp_path / "run", rollouts=2))
    for backend in ("envpool", "gymnasium"):
        moved, exact = Trainer.resume(tmp_path / "run", backend=backend)
        assert (moved.envs.backend, exact) == (backend, backend == "gymnasium")


def test_a_checkpoint_of_another_version_is_refused_with_a_reason(tmp_path: Path) -> None:
    train(short_config("CartPole-v1", tmp_path / "run", rollouts=1))
    state = checkpoint.load(tmp_path / "run")
    state["config"] = state["config"].replace('"damping"', '"dampening"')
    del state["version"]
    checkpoint.save(tmp_path / "run", state)
    with pytest.raises(checkpoint.BadCheckpoint, match=r"another version: its config has no damping"):
        Trainer.resume(tmp_path / "run")


def test_a_checkpoint_whose_config_lacks_an_option_does_not_take_todays_default(tmp_path: Path) -> None:
    train(short_config("CartPole-v1", tmp_path / "run", rollouts=1))
    state = checkpoint.load(tmp_path / "run")
    config = json.loads(state["config"])
    del config["algorithm"]["weight_decay"], config["stagger"]
    checkpoint.save(tmp_path / "run", state | {"config": json.dumps(config)})
    with pytest.raises(checkpoint.BadCheckpoint, match=r"another version: its config has no stagger, weight_decay"):
        Trainer.resume(tmp_path / "run")
    load_policy(tmp_path / "run")  # which needs none of these


def test_a_run_is_not_resumed_on_other_observations_or_actions(tmp_path: Path) -> None:
    train(short_config("CartPole-v1", tmp_path / "run", rollouts=1))
    state = checkpoint.load(tmp_path / "run")
    spec = state["spec"] | {"observation_shape": (5,)}
    checkpoint.save(tmp_path / "run", state | {"spec": spec})
    with pytest.raises(BadConfig, match=r"observation_shape \(5,\), and CartPole-v1 on gymnasium has \(4,\)"):
        Trainer.resume(tmp_path / "run")


def test_two_trainings_never_write_into_one_folder(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    trainer = Trainer.start(short_config("CartPole-v1", directory))

    def begin_others(row: dict[str, float]) -> None:
        with pytest.raises(BadConfig, match="another training is writing"):
            Trainer.resume(directory)[0].run()
        with pytest.raises(BadConfig, match="another training is writing"):
            Trainer.start(short_config("CartPole-v1", directory))

    trainer.run(on_row=begin_others)
    Trainer.resume(directory)


def test_of_two_trainings_that_resumed_at_once_one_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    first, second = Trainer.start(short_config("CartPole-v1", directory)), Trainer.resume(directory)[0]

    def run_the_second(row: dict[str, float]) -> None:
        with pytest.raises(BadConfig, match="another training is writing"):
            second.run()

    first.run(on_row=run_the_second)


def test_of_a_run_that_has_gone_on_meanwhile_nothing_is_lost(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    train(short_config("CartPole-v1", directory))
    stale, fresh = (Trainer.resume(directory, total_timesteps=5 * ROLLOUT)[0] for _ in range(2))
    assert fresh.run()
    before = (directory / "metrics.csv").read_text()
    with pytest.raises(BadConfig, match="another training has gone on"):
        stale.run()
    assert (directory / "metrics.csv").read_text() == before


def test_parameters_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    trainer = Trainer.start(short_config("CartPole-v1", tmp_path / "run"))
    next(iter(trainer.policy.critic.parameters())).data.fill_(math.inf)
    with pytest.raises(TrainingDiverged, match=r"critic.* not finite"):
        trainer.save()
    assert all(p.isfinite().all() for p in checkpoint.load(tmp_path / "run")["policy"].values())
