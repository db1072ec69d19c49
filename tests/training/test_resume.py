"""A resumed run: equal to one that was never interrupted, or openly not."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ratpg.training import checkpoint
from ratpg.training.config import TrainConfig
from ratpg.training.trainer import Trainer
from short_runs import ROLLOUT, metrics_but_times, short_config, train

ROLLOUTS = 6
PAPER = {"max_step_norm": 0.5, "kaczmarz_decay": 1.0, "epochs": 4, "minibatches": 4}
CASES = [
    ("CartPole-v1", {}),
    ("Pendulum-v1", {"num_envs": 1, "num_steps": 128}),
    ("Hopper-v4", {"action_bounds": "tanh", "normalize_rewards": False, "algorithm": PAPER}),
    ("Ant-v4", {"algorithm": PAPER}),
    ("Humanoid-v5", {}),
]


class Killed(BaseException):
    """Stands for a kill: nothing below may catch it and tidy up."""


def stop_after(rollouts: int) -> Callable[[], bool]:
    asked = iter(range(1, 1000))
    return lambda: next(asked) == rollouts


def kill_at(rollout: int) -> Callable[[dict[str, float]], None]:
    def on_row(row: dict[str, float]) -> None:
        if row["timesteps"] == rollout * ROLLOUT:
            raise Killed

    return on_row


def assert_same_run(first: Trainer, second: Trainer) -> None:
    assert metrics_but_times(first.config.directory) == metrics_but_times(second.config.directory)
    for name, value in first.policy.state_dict().items():
        assert torch.equal(value, second.policy.state_dict()[name]), name


@pytest.mark.parametrize("env_id, options", CASES, ids=[env_id for env_id, _ in CASES])
def test_an_interrupted_run_ends_as_one_that_was_not(env_id: str, options: dict[str, object], tmp_path: Path) -> None:
    def config(name: str) -> TrainConfig:
        changes = {key: dict(value) if isinstance(value, dict) else value for key, value in options.items()}
        return short_config(env_id, tmp_path / name, ROLLOUTS, **changes)

    whole = train(config("whole"))
    assert len(metrics_but_times(tmp_path / "whole")) == ROLLOUTS
    assert not Trainer.start(config("parts")).run(should_stop=stop_after(3))
    resumed, exact = Trainer.resume(tmp_path / "parts")
    assert exact
    assert resumed.timesteps == 3 * ROLLOUT
    assert resumed.run()
    assert_same_run(resumed, whole)


def test_a_run_interrupted_after_every_rollout_ends_as_one_that_was_not(tmp_path: Path) -> None:
    whole = train(short_config("CartPole-v1", tmp_path / "whole", ROLLOUTS))
    assert not Trainer.start(short_config("CartPole-v1", tmp_path / "parts", ROLLOUTS)).run(should_stop=stop_after(1))
    for rollout in range(2, ROLLOUTS + 1):
        resumed, _ = Trainer.resume(tmp_path / "parts")
        assert resumed.run(should_stop=stop_after(1)) == (rollout == ROLLOUTS)
    assert_same_run(resumed, whole)


def test_work_after_the_last_checkpoint_is_done_again(tmp_path: Path) -> None:
    whole = train(short_config("Hopper-v4", tmp_path / "whole", ROLLOUTS))
    config = short_config("Hopper-v4", tmp_path / "parts", ROLLOUTS, checkpoint_interval=0)
    with pytest.raises(Killed):
        Trainer.start(config).run(on_row=kill_at(4))
    metrics = tmp_path / "parts" / "metrics.csv"
    assert len(metrics_but_times(tmp_path / "parts")) == 4  # of which the checkpoint has three
    with metrics.open("a") as file:
        file.write(f"{5 * ROLLOUT},1.23")  # a row cut off by the kill
    resumed, exact = Trainer.resume(tmp_path / "parts")
    assert exact
    assert resumed.timesteps == 3 * ROLLOUT
    assert resumed.run()
    assert_same_run(resumed, whole)


def test_a_run_killed_before_its_first_checkpoint_can_be_resumed(tmp_path: Path) -> None:
    whole = train(short_config("CartPole-v1", tmp_path / "whole", ROLLOUTS))
    with pytest.raises(Killed):
        Trainer.start(short_config("CartPole-v1", tmp_path / "parts", ROLLOUTS)).run(on_row=kill_at(1))
    resumed, _ = Trainer.resume(tmp_path / "parts")
    assert resumed.timesteps == 0
    assert resumed.run()
    assert_same_run(resumed, whole)


@pytest.mark.parametrize("env_id, backend", [("CartPole-v1", "envpool"), ("ToyTerminating-v0", "gymnasium")])
def test_where_the_state_cannot_be_saved_the_run_goes_on_with_fresh_episodes(
    env_id: str, backend: str, tmp_path: Path
) -> None:
    config = short_config(env_id, tmp_path / "run", ROLLOUTS, backend=backend)
    started = Trainer.start(config)
    first_observation = started.envs.observation.clone()
    assert not started.run(should_stop=stop_after(3))
    resumed, exact = Trainer.resume(tmp_path / "run")
    assert not exact
    assert resumed.timesteps == 3 * ROLLOUT
    assert resumed.reward_normalizer is not None
    assert (resumed.reward_normalizer.returns == 0).all()
    if env_id == "CartPole-v1":  # the episodes that the run began with are not played again
        assert not torch.equal(resumed.envs.observation, first_observation)
    for name, value in started.policy.state_dict().items():
        assert torch.equal(value, resumed.policy.state_dict()[name]), name
    assert resumed.run()
    rows = metrics_but_times(tmp_path / "run")
    assert [int(row["timesteps"]) for row in rows] == [ROLLOUT * n for n in range(1, ROLLOUTS + 1)]
    assert int(rows[-1]["episodes"]) > int(rows[2]["episodes"])


def test_with_other_options_of_the_environment_episodes_start_anew(tmp_path: Path) -> None:
    """The state of a Gymnasium environment holds the options that it was made with."""
    assert not Trainer.start(short_config("CartPole-v1", tmp_path / "run")).run(should_stop=stop_after(1))
    resumed, exact = Trainer.resume(tmp_path / "run", env_options=("max_episode_steps=5",))
    assert not exact
    resumed.run()
    first, *_, last = (int(row["episodes"]) for row in metrics_but_times(tmp_path / "run"))
    assert last - first > 3 * ROLLOUT / 7  # episodes of five steps and a reset; a random policy's would have twenty


def test_a_complete_run_can_be_made_longer(tmp_path: Path) -> None:
    fixed = {"entropy_coefficient": 0.0}  # what falls towards the end of a run depends on where that is
    whole = train(short_config("CartPole-v1", tmp_path / "whole", ROLLOUTS, algorithm=fixed))
    train(short_config("CartPole-v1", tmp_path / "parts", 3, algorithm=fixed))
    resumed, _ = Trainer.resume(tmp_path / "parts", total_timesteps=ROLLOUTS * ROLLOUT)
    assert resumed.run()
    assert_same_run(resumed, whole)


def test_a_run_folder_that_was_moved_resumes_where_it_is(tmp_path: Path) -> None:
    Trainer.start(short_config("CartPole-v1", tmp_path / "here", 3)).run(should_stop=stop_after(1))
    (tmp_path / "here").rename(tmp_path / "there")
    resumed, _ = Trainer.resume(tmp_path / "there")
    assert resumed.run()
    assert not (tmp_path / "here").exists()
    assert len(metrics_but_times(tmp_path / "there")) == 3


def test_a_checkpoint_holds_all_that_the_run_is(tmp_path: Path) -> None:
    trainer = train(short_config("Hopper-v4", tmp_path / "run", 3))
    state = checkpoint.load(tmp_path / "run")
    assert state["timesteps"] == 3 * ROLLOUT
    assert state["wall_time"] > 0
    assert state["envs"] is not None
    assert state["algorithm"]["critic"]["optimizer"]["state"]
    assert state["algorithm"]["step_size"] == trainer.algorithm.step_size.value
    assert any("normalizer" in name for name in state["policy"])
    assert torch.equal(state["generator"], trainer.generator.get_state())


def test_wall_time_goes_on_where_it_was(tmp_path: Path) -> None:
    Trainer.start(short_config("CartPole-v1", tmp_path / "run", 4)).run(should_stop=stop_after(2))
    before = checkpoint.load(tmp_path / "run")["wall_time"]
    resumed, _ = Trainer.resume(tmp_path / "run")
    assert resumed.wall_time == before
    resumed.run()
    assert resumed.wall_time > before
    assert not math.isnan(resumed.wall_time)
