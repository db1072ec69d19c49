"""Runs of a few rollouts in a second or so, and what is compared of them."""

import csv
from pathlib import Path
from typing import Any

from ratpg.algorithms import CONFIGS
from ratpg.training.config import TrainConfig
from ratpg.training.trainer import Trainer

ROLLOUT = 4 * 32
"""Timesteps in one rollout of a short run."""
TIMES = ("wall_time", "sps")
"""Columns of ``metrics.csv`` that two equal runs differ in."""
FLAGS = ["--num-envs", "4", "--num-steps", "32", "--threads", "1", "--hidden", "16", "16", "--entropy-coefficient", "0"]
"""A short run on the command line."""


def short_config(env: str, run_dir: Path, rollouts: int = 4, **changes: Any) -> TrainConfig:
    """Four environments, 32 steps each, small networks, one thread; on Gymnasium unless told."""
    algorithm = CONFIGS[changes.get("algo", "rat")](**changes.pop("algorithm", {}))
    values = {"num_envs": 4, "num_steps": 32, "threads": 1, "hidden": (16, 16), "backend": "gymnasium"} | changes
    return TrainConfig(algorithm=algorithm, env=env, run_dir=run_dir, total_timesteps=rollouts * ROLLOUT, **values)


def train(config: TrainConfig) -> Trainer:
    """Runs it from start to end."""
    trainer = Trainer.start(config)
    assert trainer.run()
    return trainer


def metrics_but_times(run_dir: Path) -> list[dict[str, str]]:
    """Rows of ``metrics.csv`` as they are written, without the columns that measure time."""
    with (run_dir / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{name: text for name, text in row.items() if name not in TIMES} for row in rows]
