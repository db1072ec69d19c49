"""Atari on EnvPool: four stacked frames, and a few updates of an agent."""

from pathlib import Path

import pytest
import torch

from ratpg.cli.arguments import parse_train
from ratpg.training.trainer import Trainer


@pytest.mark.parametrize("algo", ["rat", "ppo"])
def test_an_agent_is_trained_on_it(algo: str, tmp_path: Path) -> None:
    sizes = "--num-envs 4 --num-steps 8 --total-timesteps 64 --epochs 1 --minibatches 2 --threads 1".split()
    flags = ["--env", "Pong-v5", "--algo", algo, "--preset", "atari", "--run-dir", str(tmp_path / "run")]
    trainer = Trainer.start(parse_train([*flags, *sizes]))
    assert trainer.envs.observation.shape == (4, 4, 84, 84)
    assert (trainer.policy.spec.network, trainer.policy.spec.shared) == ("nature-cnn", True)
    before = [parameter.detach().clone() for parameter in trainer.policy.parameters()]
    assert trainer.run()
    assert all(not torch.equal(p, b) for p, b in zip(trainer.policy.parameters(), before, strict=True))
