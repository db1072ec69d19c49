"""The cosine between steps taken and exact natural gradients."""

import csv
from pathlib import Path

import pytest
import torch

from ratpg.algorithms import CONFIGS, PPOConfig, RATConfig, make_algorithm
from ratpg.rl.batch import Batch
from ratpg.rl.policy import ActorCritic
from ratpg.rl.spec import PolicySpec
from ratpg.training.alignment import AlignmentProbe
from ratpg.training.config import TrainConfig
from ratpg.training.presets import preset
from ratpg.training.trainer import Trainer

SPEC = PolicySpec((5,), (2,), hidden=(6,), activation="tanh")


def problem(rows: int = 60) -> tuple[ActorCritic, Batch]:
    torch.manual_seed(0)
    policy, observations = ActorCritic(SPEC), torch.randn(rows, 5)
    distribution = policy.actor(observations).detach()
    actions = distribution.sample(torch.randn(rows, 2))
    log_prob = distribution.log_prob(actions)
    return policy, Batch(observations, actions, distribution, log_prob, torch.randn(rows), torch.randn(rows))


def measured(config: object, rows: int = 60) -> float:
    policy, batch = problem(rows)
    probe = AlignmentProbe(policy)
    algorithm = make_algorithm(policy, config, torch.Generator().manual_seed(0))
    metrics = algorithm.update(probe.watch(batch), 1.0)
    assert probe.cosine is not None
    # What an algorithm says itself, which costs less, is what the probe sees of it.
    assert algorithm.measures == ("natural_cosine" in metrics)
    assert metrics.get("natural_cosine", probe.cosine) == pytest.approx(probe.cosine, abs=1e-3)
    return probe.cosine


def test_rats_step_is_the_natural_gradient() -> None:
    config = RATConfig(entropy_coefficient=0.0, weight_decay=0.0, minibatches=3)
    assert measured(config) == pytest.approx(1.0, abs=1e-4)


def test_all_rows_of_a_large_mini_batch_are_looked_at() -> None:
    config = RATConfig(entropy_coefficient=0.0, weight_decay=0.0, minibatches=1)
    assert measured(config, rows=2048) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("changes", [{"kaczmarz_decay": 0.9}, {"curvature_rows": 8, "weight_decay": 0.0}])
def test_every_kind_of_rat_is_measured(changes: dict[str, float]) -> None:
    assert 0 < measured(RATConfig(minibatches=3, **changes)) <= 1.0 + 1e-6


def test_entropy_and_weight_decay_turn_rats_step_a_little() -> None:
    assert 0.5 < measured(RATConfig(entropy_coefficient=0.1, weight_decay=0.01, minibatches=3)) < 0.9999


def test_a_plain_gradient_step_is_another_direction_on_the_same_side() -> None:
    # Adam's first step is one of signs.
    assert 0.0 < measured(PPOConfig(minibatches=3)) < 0.9


def test_the_first_step_of_a_rollout_is_measured_and_no_other() -> None:
    policy, batch = problem()
    probe = AlignmentProbe(policy)
    parameters = list(policy.actor.parameters())
    for position, minibatch in enumerate(probe.watch(batch).minibatches(3, torch.Generator())):
        natural = probe.natural_gradient(minibatch).split([p.numel() for p in parameters])
        sign = 1 if position == 0 else -1
        for parameter, g in zip(parameters, natural, strict=True):
            parameter.data += sign * 0.01 * g.view_as(parameter)
    assert probe.cosine == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("algo", CONFIGS)
def test_every_algorithm_logs_it(algo: str, tmp_path: Path) -> None:
    settings = preset(algo, "default", "CartPole-v1") | {"num_envs": 2, "num_steps": 32, "hidden": (8,)}
    config = TrainConfig(total_timesteps=64, run_dir=tmp_path / "run", threads=1, **settings)
    Trainer.start(config).run()
    with (tmp_path / "run" / "metrics.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert -1.0 <= float(row["natural_cosine"]) <= 1.0
    assert float(row["natural_cosine"]) != 0.0
