"""Procgen, where its system library is: images, levels, and a few updates of an agent."""

from pathlib import Path

import envpool
import numpy as np
import pytest
import torch

from ratpg.cli.arguments import parse_train
from ratpg.rl.envs import UnknownEnvironment, make_vec
from ratpg.training.trainer import Trainer

GAMES = (
    "Bigfish Bossfight Caveflyer Chaser Climber Coinrun Dodgeball Fruitbot Heist Jumper Leaper Maze Miner Ninja "
    "Plunder Starpilot"
).split()


def has_qt() -> bool:
    try:
        envpool.make_gymnasium("CoinrunEasy-v0", num_envs=1).close()
    except ImportError:
        return False
    return True


needs_qt = pytest.mark.skipif(not has_qt(), reason="Qt 5 is not installed: make setup-procgen")


def first_images(env_id: str, seed: int, **options: int) -> torch.Tensor:
    envs = make_vec(env_id, 8, seed=seed, options=options)
    envs.close()
    return envs.observation


@needs_qt
@pytest.mark.parametrize("mode", ["Easy", "Hard"])
@pytest.mark.parametrize("game", GAMES)
def test_every_game_gives_images(game: str, mode: str) -> None:
    envs = make_vec(f"{game}{mode}-v0", 2, seed=0)
    assert envs.observation.shape == (2, 3, 64, 64)
    assert envs.observation.dtype == torch.uint8
    reward, _, _ = envs.step(np.zeros(2, dtype=np.int64))
    assert reward.shape == (2,)
    envs.close()


@needs_qt
def test_levels_are_those_that_were_asked_for() -> None:
    one, again = (first_images("CoinrunEasy-v0", seed, num_levels=1, start_level=3) for seed in (0, 1))
    assert len(one.flatten(1).unique(dim=0)) == 1
    assert torch.equal(one, again)
    assert not torch.equal(one, first_images("CoinrunEasy-v0", 0, num_levels=1, start_level=4))
    assert len(first_images("CoinrunEasy-v0", 0).flatten(1).unique(dim=0)) > 1


@needs_qt
@pytest.mark.parametrize("algo", ["rat", "ppo"])
def test_an_agent_is_trained_on_it(algo: str, tmp_path: Path) -> None:
    sizes = "--num-envs 4 --num-steps 8 --total-timesteps 64 --epochs 1 --minibatches 2 --threads 1".split()
    flags = ["--env", "BigfishEasy-v0", "--algo", algo, "--preset", "procgen", "--run-dir", str(tmp_path / "run")]
    trainer = Trainer.start(parse_train([*flags, *sizes]))
    assert (trainer.policy.spec.network, trainer.policy.spec.shared) == ("impala", True)
    assert trainer.config.env_options == ("num_levels=10", "start_level=0")
    before = [parameter.detach().clone() for parameter in trainer.policy.parameters()]
    assert trainer.run()
    assert all(not torch.equal(p, b) for p, b in zip(trainer.policy.parameters(), before, strict=True))


def test_without_qt_the_command_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ImportError("EnvPool Procgen requires the system Qt 5 runtime on Linux.")

    monkeypatch.setattr("ratpg.rl.envs.envpool.envpool.make_gymnasium", fail)
    with pytest.raises(UnknownEnvironment, match="make setup-procgen"):
        make_vec("CoinrunEasy-v0", 1, seed=0)
