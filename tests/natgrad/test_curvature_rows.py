"""Curvature from some of the rows: the full gradient, preconditioned by their Fisher matrix."""

import pytest
import torch

from ratpg import AdvantageTransform

from .cases import CASES
from .oracle import flat, problem, relative_error, unflat

NAMES = ["relu_mlp", "shared_trunk", "many_tokens", "conv2d_net", "two_panels"]


@pytest.mark.parametrize("decay", [0.0, 0.6])
@pytest.mark.parametrize("name", NAMES)
def test_the_step_is_the_dense_one(name: str, decay: float) -> None:
    case, given = CASES[name]().to(torch.float64), problem(name)
    h, y, w = given.scores, given.advantages, given.weights
    rows = max(2, len(y) // 3)
    transform = AdvantageTransform(case.actor, 0.1, curvature_rows=rows)
    with transform.record():
        log_prob = case.log_prob()
    before = torch.randn(h.shape[1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    step = transform(log_prob, y, w, previous=unflat(before, transform.parameters), decay=decay)

    fisher = h[:rows].T @ torch.diag(w[:rows]) @ h[:rows] / rows
    gradient = h.T @ (w * (y - decay * h @ before)) / len(y)
    fresh = torch.linalg.solve(fisher + 0.1 * torch.eye(h.shape[1], dtype=torch.float64), gradient)
    expected = decay * before + fresh
    assert relative_error(flat(step.direction[n] for n in transform.parameters), expected) <= 1e-9
    # Ã is still what an ordinary loss is weighted with.
    assert relative_error(h.T @ (w * step.advantage) / len(y), fresh) <= 1e-9
    along = h @ expected
    assert relative_error(step.predicted_gain, (w * y * along).mean()) <= 1e-9
    assert relative_error(step.predicted_kl, 0.5 * (w * along.square()).mean()) <= 1e-9


def test_as_many_rows_as_there_are_samples_change_nothing() -> None:
    given = problem("relu_mlp")
    steps = []
    for rows in (None, len(given.advantages), 10**6):
        case = CASES["relu_mlp"]().to(torch.float64)
        transform = AdvantageTransform(case.actor, 0.1, curvature_rows=rows)
        with transform.record():
            log_prob = case.log_prob()
        steps.append(transform(log_prob, given.advantages, given.weights))
    assert torch.equal(steps[0].advantage, steps[1].advantage)
    assert torch.equal(steps[0].advantage, steps[2].advantage)


@pytest.mark.parametrize(("rows", "damping"), [(0, 0.1), (-3, 0.1), (4, 0.0)])
def test_rows_that_make_no_sense_are_refused(rows: int, damping: float) -> None:
    with pytest.raises(ValueError, match="curvature_rows"):
        AdvantageTransform(torch.nn.Linear(2, 1), damping, curvature_rows=rows)


def test_the_advantage_alone_needs_all_rows() -> None:
    layer = torch.nn.Linear(2, 1)
    transform = AdvantageTransform(layer, curvature_rows=3)
    with transform.record():
        log_prob = layer(torch.ones(5, 2)).sum(1)
    with pytest.raises(ValueError, match="curvature of all rows"):
        transform.solve(log_prob, torch.ones(5, 1))
