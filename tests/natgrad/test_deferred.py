"""A deferred step is the same step, and where there is none it is zero, without the host's looking."""

import pytest
import torch

from ratpg.natgrad import AdvantageTransform, dense

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


@pytest.mark.parametrize("broken", ["advantage", "weight"])
@pytest.mark.parametrize("rows", [None, 10])
@pytest.mark.parametrize("decay", [0.0, 1.0])
def test_a_step_that_cannot_be_had_is_zero(broken: str, rows: int | None, decay: float) -> None:
    actor = net()
    transform = AdvantageTransform(actor, 0.1, curvature_rows=rows)
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
    if broken == "advantage":  # a weight that is negative has no root
        assert (step.advantage == 0).all()
        assert step.predicted_kl == 0


@pytest.mark.parametrize("damping, scale", [(0.0, 1.0), (0.1, 3e4)])
def test_where_damping_is_below_rounding_the_diagonal_is_raised(damping: float, scale: float) -> None:
    """More samples than parameters, and scores so large that λ is lost beside them in float32."""
    actor = net()
    obs, y = torch.randn(60, 3), torch.randn(60)
    directions = []
    for deferred in (False, True):
        transform = AdvantageTransform(actor, damping)
        transform.deferred = deferred
        with transform.record():
            log_prob = scale * actor(obs).squeeze(1)
        step = transform(log_prob, y)
        assert step.solution.jitter > 0
        directions.append(flat(step.direction))
    assert step.solution.holds is not None
    assert step.solution.holds.item()
    assert relative_error(directions[1], directions[0]) <= 1e-3
    h = scale * dense.score_matrix(actor(obs).squeeze(1), list(actor.parameters()))
    moved = h @ directions[1] / len(y) ** 0.5
    assert relative_error(step.predicted_kl, 0.5 * moved @ moved) <= 1e-2
