"""TensorBoard reads what was written, also after a resume."""

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ratpg.training.trainer import Trainer
from short_runs import ROLLOUT, short_config, train


def test_every_column_is_a_scalar_at_its_timesteps(tmp_path: Path) -> None:
    train(short_config("CartPole-v1", tmp_path / "run", rollouts=2))
    resumed, _ = Trainer.resume(tmp_path / "run", total_timesteps=3 * ROLLOUT)
    resumed.run()
    events = EventAccumulator(str(tmp_path / "run")).Reload()
    assert {"kl", "entropy", "episode_return_mean", "sps"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("kl")] == [ROLLOUT, 2 * ROLLOUT, 3 * ROLLOUT]


def test_rows_of_an_attempt_that_was_killed_before_its_first_checkpoint_do_not_count(tmp_path: Path) -> None:
    def kill(row: dict[str, float]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Trainer.start(short_config("CartPole-v1", tmp_path / "run", rollouts=2)).run(on_row=kill)
    resumed, _ = Trainer.resume(tmp_path / "run")
    resumed.run()
    events = EventAccumulator(str(tmp_path / "run")).Reload().Scalars("kl")
    assert [event.step for event in events] == [ROLLOUT, 2 * ROLLOUT]
