"""Weights over many orders of magnitude: one sample's is no reason to give up the others'."""

import pytest
import torch
from torch import Tensor

from ratpg.natgrad import AdvantageTransform, Step, dense

from .cases import CASES
from .oracle import flat, problem, record, relative_error

EPS = torch.finfo(torch.float32).eps


def one_large(size: int) -> Tensor:
    """Ones, and a million."""
    weights = torch.ones(size)
    weights[min(3, size - 1)] = 1e6
    return weights


def log_normal(size: int) -> Tensor:
    """``exp(6u)`` for a normal ``u``: over twelve orders of magnitude and more."""
    return (6 * torch.randn(size, generator=torch.Generator().manual_seed(3))).exp()


WEIGHTS = {"one_large": one_large, "log_normal": log_normal}


def step_of(name: str, weights: Tensor, damping: float, deferred: bool = False) -> Step:
    """The step on a case in float32."""
    transform, log_prob = record(CASES[name]().to(torch.float32), damping)
    transform.deferred = deferred
    return transform(log_prob, problem(name).advantages.float(), weights)


def expected_of(name: str, weights: Tensor, damping: float) -> tuple[Tensor, float]:
    """The direction in float64, and the condition number of the system scaled to a unit diagonal."""
    h, sigma = problem(name).scores, dense.covariance(weights.double())
    direction = h.T @ sigma @ dense.transformed_advantage(h, problem(name).advantages, weights.double(), damping)
    system = damping * torch.eye(len(h)) + sigma.sqrt() @ h @ h.T @ sigma.sqrt()
    scale = system.diagonal().rsqrt()
    return direction, float(torch.linalg.cond(scale[:, None] * system * scale))


@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("name", CASES)
def test_the_step_keeps_four_digits_or_what_the_conditioning_leaves(name: str, kind: str) -> None:
    weights = WEIGHTS[kind](len(problem(name).advantages))
    direction, condition = expected_of(name, weights, 0.1)
    step = step_of(name, weights, 0.1)
    assert step.solution.method == "cholesky"
    assert relative_error(flat(step.direction), direction) <= max(1e-4, 0.3 * EPS * condition)

    root = (weights.double() / len(weights)).sqrt()
    moved = root * (problem(name).scores @ direction)
    assert relative_error(step.predicted_kl, 0.5 * moved @ moved) <= 1e-4
    assert relative_error(step.predicted_gain, moved @ (root * problem(name).advantages)) <= 1e-4


@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("name", CASES)
def test_a_deferred_step_is_the_same_but_for_the_jitter(name: str, kind: str) -> None:
    weights = WEIGHTS[kind](len(problem(name).advantages))
    direction, condition = expected_of(name, weights, 0.1)
    step = step_of(name, weights, 0.1, deferred=True)
    assert step.solution.holds is not None
    assert step.solution.holds.item()
    # Each diagonal entry may be raised by 10√n roundings of its own.
    rounding = 10 * len(weights) ** 0.5 * EPS if step.solution.jitter else EPS
    assert relative_error(flat(step.direction), direction) <= max(1e-4, 0.3 * rounding * condition)


@pytest.mark.parametrize("deferred", [False, True])
@pytest.mark.parametrize("kind", WEIGHTS)
def test_a_small_classifier_keeps_four_digits(kind: str, deferred: bool) -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 32), torch.nn.Tanh(), torch.nn.Linear(32, 2))
    x, actions, y, weights = torch.randn(64, 4), torch.randint(2, (64,)), torch.randn(64), WEIGHTS[kind](64)
    found = []
    for dtype in (torch.float32, torch.float64):
        transform = AdvantageTransform(net.to(dtype), 0.1)
        transform.deferred = deferred and dtype == torch.float32
        with transform.record():
            log_prob = net(x.to(dtype)).log_softmax(-1)[torch.arange(64), actions]
        found.append(flat(transform(log_prob, y.to(dtype), weights.to(dtype)).direction))
    assert relative_error(*found) <= 1e-4
