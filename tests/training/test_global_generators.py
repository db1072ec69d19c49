"""Environments that draw from the process's global generators give the same run from the same seed."""

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import odd_envs  # noqa: F401  registers the one that draws
from ratpg.training.evaluate import evaluate
from ratpg.training.global_generators import GlobalGenerators
from ratpg.training.trainer import Trainer
from short_runs import ROLLOUT, metrics_but_times, short_config, train

DRAWS: dict[str, Callable[[], float]] = {
    "python": random.random,
    "numpy": np.random.random,
    "normal": np.random.normal,  # of which every second is kept in the state
    "gauss": lambda: random.gauss(0, 1),
    "torch": lambda: float(torch.rand(())),
}


def disturb() -> None:
    for draw in DRAWS.values():
        draw()


def test_the_same_seed_gives_the_same_metrics_twice(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        disturb()
        train(short_config("OddDrawsGlobally-v0", tmp_path / name, rollouts=3, seed=seed))
    first, second, other = (metrics_but_times(tmp_path / name) for name in "abc")
    assert first == second
    assert first != other


def test_a_run_that_is_interrupted_and_resumed_is_the_uninterrupted_one(tmp_path: Path) -> None:
    train(short_config("OddDrawsGlobally-v0", tmp_path / "whole", rollouts=4))
    stopped = Trainer.start(short_config("OddDrawsGlobally-v0", tmp_path / "parts", rollouts=4))
    assert not stopped.run(should_stop=lambda: stopped.timesteps == 2 * ROLLOUT)
    disturb()
    trainer, exact = Trainer.resume(tmp_path / "parts")
    assert exact and trainer.run()
    assert metrics_but_times(tmp_path / "parts") == metrics_but_times(tmp_path / "whole")


def test_the_process_keeps_its_own_generators(tmp_path: Path) -> None:
    def seeded() -> list[float]:
        random.seed(7)
        np.random.seed(7)
        torch.manual_seed(7)
        return []

    plain = seeded()
    for _ in range(3):
        plain += [draw() for draw in DRAWS.values()]
    around = seeded()
    for _ in range(3):
        trainer = train(short_config("OddDrawsGlobally-v0", tmp_path / str(len(around)), rollouts=1))
        evaluate(trainer.policy, "OddDrawsGlobally-v0", episodes=1, seed=0)
        around += [draw() for draw in DRAWS.values()]
    assert around == plain


def test_evaluation_depends_on_its_seed_alone(tmp_path: Path) -> None:
    policy = train(short_config("OddDrawsGlobally-v0", tmp_path, rollouts=1)).policy
    results = []
    for seed in (3, 3, 4):
        disturb()
        results.append(evaluate(policy, "OddDrawsGlobally-v0", episodes=2, seed=seed).returns)
    assert results[0] == results[1] != results[2]


@pytest.mark.parametrize("seed", [0, 5, 2**32 - 1])
def test_they_are_seeded_as_by_stable_baselines(seed: int) -> None:
    from stable_baselines3.common.utils import set_random_seed

    with GlobalGenerators(0).in_use():  # which leaves the process's own as they are
        set_random_seed(seed)
        wanted = [draw() for draw in DRAWS.values()]
    with GlobalGenerators(seed).in_use():
        found = [draw() for draw in DRAWS.values()]
    assert found == wanted


def test_the_state_goes_on_where_it_was() -> None:
    generators = GlobalGenerators(2**63 - 1)
    with generators.in_use():
        disturb()
    saved = generators.state_dict()
    with generators.in_use():
        wanted = [draw() for draw in DRAWS.values()]
    other = GlobalGenerators(1)
    other.load_state_dict(saved)
    with other.in_use():
        assert [draw() for draw in DRAWS.values()] == wanted
