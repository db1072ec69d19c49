"""A deferred step is the same step, and where there is none it is zero, without the host's looking."""

import pytest
import torch

from ratpg.natgrad import AdvantageTransform

from .cases import CASES
from .oracle import flat, problem, record, relative_error, solve


@pytest.mark.parametrize("name", CASES)
def test_a_deferred_step_is_the_step(name: str) -> None:
    transform, log_prob = record(CASES[name]().to(torch.float64))
    transform.deferred = True
    given = problem(name)
    step = transform(log_prob, given.advantages, given.weights)
    _, _, expected = solve(name)
    assert step.solution.holds is not None
    assert step.solution.holds.item()
    assert relative_error(flat(step.direction), flat(expected.direction)) <= 1e-12
    assert relative_error(step.predicted_kl, expected.predicted_kl) <= 1e-12


def net() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))


@pytest.mark.parametrize("broken", ["advantage", "weight", "singular"])
@pytest.mark.parametrize("decay", [0.0, 1.0])
def test_a_step_that_cannot_be_had_is_zero(broken: str, decay: float) -> None:
    actor = net()
    transform = AdvantageTransform(actor, 0.0 if broken == "singular" else 0.1)
    transform.deferred = True
    y, w = torch.randn(40), torch.ones(40)
    if broken == "advantage":
        y[3] = torch.nan
    if broken == "weight":
        w[3] = -1.0
    with transform.record():
        log_prob = actor(torch.randn(40, 3)).squeeze(1)
    carried = {name: torch.ones_like(parameter) for name, parameter in transform.parameters.items()}
    step = transform(log_prob, y, w, previous=carried, decay=decay)
    assert step.solution.holds is not None
    assert not step.solution.holds.item()
    assert all((g == 0).all() for g in step.direction.values())
