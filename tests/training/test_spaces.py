"""Policies of every kind learn what they are told, and what they have to remember."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from ratpg.algorithms import PPOConfig, RATConfig
from ratpg.training.config import TrainConfig
from ratpg.training.evaluate import evaluate
from ratpg.training.presets import SHARED
from ratpg.training.trainer import Trainer, load_policy

ALGORITHMS = {
    "rat": RATConfig(entropy_coefficient=0.0),
    "ppo": PPOConfig(learning_rate=3e-3, epochs=4, minibatches=4, anneal_learning_rate=False),
}


def train(env: str, algo: str, run_dir: Path, rollouts: int, **options: Any) -> Trainer:
    values = {"num_envs": 8, "num_steps": 32, "hidden": (32,), "threads": 1, "initial_log_std": 0.0} | options
    steps = rollouts * values["num_envs"] * values["num_steps"]
    algorithm = ALGORITHMS[algo]
    if algo == "rat" and values.get("shared"):
        algorithm = dataclasses.replace(algorithm, **SHARED["rat"])
    config = TrainConfig(
        algorithm=algorithm, algo=algo, env=env, run_dir=run_dir, total_timesteps=steps, gae_lambda=0.9, **values
    )
    trainer = Trainer.start(config)
    assert trainer.run()
    return trainer


@pytest.mark.parametrize("algo", ALGORITHMS)
@pytest.mark.parametrize("shared", [False, True], ids=["separate", "shared"])
@pytest.mark.parametrize("kind", ["Dict", "Discrete", "MultiDiscrete", "MultiBinary"])
def test_it_learns_what_it_is_told(kind: str, shared: bool, algo: str, tmp_path: Path) -> None:
    trainer = train(f"ToyTold{kind}-v0", algo, tmp_path, rollouts=25, shared=shared)
    assert trainer.episodes.return_mean() > 6.5  # of 8; chance is 2.7 to 4


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_it_learns_from_images(algo: str, tmp_path: Path) -> None:
    options = {"num_envs": 4, "num_steps": 16, "shared": True}
    trainer = train("ToyToldImage-v0", algo, tmp_path, rollouts=25, **options)
    assert trainer.policy.spec.network == "nature-cnn"
    assert trainer.episodes.return_mean() > 5.5  # of 8; chance is 4


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_an_lstm_remembers_what_the_layers_alone_cannot(algo: str, tmp_path: Path) -> None:
    sizes = {"rollouts": 25, "num_envs": 16, "num_steps": 20}
    remembering = train("ToyRemember-v0", algo, tmp_path / "lstm", lstm=8, **sizes)
    assert remembering.episodes.return_mean() > 0.9
    policy, config = load_policy(tmp_path / "lstm")
    assert evaluate(policy, config.env, episodes=50, seed=1).mean > 0.9
    forgetting = train("ToyRemember-v0", algo, tmp_path / "mlp", **sizes)
    assert 0.3 < forgetting.episodes.return_mean() < 0.7
