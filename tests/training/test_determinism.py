"""The same seed on the same number of threads gives the same metrics, to the last digit."""

from pathlib import Path

import pytest
import torch

from ratpg.training.trainer import Trainer
from short_runs import metrics_but_times, short_config, train


@pytest.mark.parametrize("backend", ["envpool", "gymnasium"])
@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1", "Hopper-v4"])
def test_the_same_seed_gives_the_same_metrics_twice(env_id: str, backend: str, tmp_path: Path) -> None:
    first, second = (train(short_config(env_id, tmp_path / name, backend=backend)) for name in "ab")
    metrics = metrics_but_times(tmp_path / "a")
    assert len(metrics) == 4
    assert metrics_but_times(tmp_path / "b") == metrics
    for ours, theirs in zip(first.policy.state_dict().values(), second.policy.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("backend", ["envpool", "gymnasium"])
def test_another_seed_gives_other_metrics(backend: str, tmp_path: Path) -> None:
    for seed in (0, 1):
        train(short_config("CartPole-v1", tmp_path / str(seed), rollouts=2, backend=backend, seed=seed))
    assert metrics_but_times(tmp_path / "0") != metrics_but_times(tmp_path / "1")


def test_several_threads_are_as_reproducible_as_one(tmp_path: Path) -> None:
    for name in "ab":
        train(short_config("Hopper-v4", tmp_path / name, rollouts=2, backend="envpool", threads=2))
    assert metrics_but_times(tmp_path / "a") == metrics_but_times(tmp_path / "b")


def test_a_run_depends_on_no_generator_but_its_own(tmp_path: Path) -> None:
    for name, seed in [("a", 0), ("b", 1)]:
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        train(short_config("Pendulum-v1", tmp_path / name, rollouts=2))
        assert torch.equal(torch.get_rng_state(), state)
    assert metrics_but_times(tmp_path / "a") == metrics_but_times(tmp_path / "b")


def test_the_first_weights_do_not_depend_on_the_process(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    try:
        states = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            trainer = Trainer(short_config("Hopper-v4", tmp_path / "run", hidden=(256, 256)))
            states.append(trainer.policy.state_dict())
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
