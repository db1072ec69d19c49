"""Every algorithm learns: a balanced pole, discrete and continuous, within seconds."""

from pathlib import Path

import pytest

from ratpg.algorithms import CONFIGS
from ratpg.training.config import TrainConfig
from ratpg.training.presets import preset
from ratpg.training.trainer import Trainer


@pytest.mark.parametrize("algo", CONFIGS)
@pytest.mark.parametrize(
    "env_id, steps, threshold",
    [
        ("CartPole-v1", 40_000, 180.0),  # at best 500; a policy that has learnt nothing gets 20
        ("InvertedPendulum-v4", 60_000, 200.0),  # at best 1000, at first 6
    ],
)
def test_it_learns_to_balance(algo: str, env_id: str, steps: int, threshold: float, tmp_path: Path) -> None:
    settings = {"hidden": (64, 64)} | preset(algo, "default", env_id)
    config = TrainConfig(total_timesteps=steps, run_dir=tmp_path / "run", threads=1, **settings)
    trainer = Trainer.start(config)
    trainer.run()
    assert trainer.episodes.return_mean() > threshold
