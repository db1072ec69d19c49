"""Randomized block Kaczmarz over mini-batches is the paper's iteration, and converges to the least-squares solution."""

import pytest
import torch
from torch import Tensor

from ratpg.natgrad import AdvantageTransform, dense

from .cases import CASES
from .oracle import flat, problem, record, relative_error, unflat


def _draw(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9, 1.0])
def test_ten_mini_batches_follow_the_oracle(decay: float) -> None:
    case, generator = CASES["relu_mlp"](), torch.Generator().manual_seed(3)
    transform = AdvantageTransform(case.actor, damping=0.05)
    g: dict[str, Tensor] | None = None
    expected = torch.zeros(sum(p.numel() for p in case.parameters), dtype=torch.float64)
    for _ in range(10):
        obs, action = _draw(generator, 16, 6), _draw(generator, 16, 3)
        y, w = _draw(generator, 16), 0.1 + _draw(generator, 16).abs()
        with transform.record():
            log_prob = case.compute(obs, action)
        step = transform(log_prob, y, w, previous=g, decay=decay)
        h, before = dense.score_matrix(log_prob, case.parameters), expected
        expected = dense.kaczmarz_step(h, y, w, 0.05, before, decay)
        g = step.direction

        assert relative_error(flat(g), expected) <= 1e-10
        # Ã is the solution for the residual, and predictions are about the whole of g.
        residual = y - decay * h @ before
        sigma = dense.covariance(w)
        assert relative_error(step.advantage, dense.transformed_advantage(h, residual, w, 0.05)) <= 1e-10
        assert relative_error(step.predicted_gain, expected @ h.T @ sigma @ y) <= 1e-10
        assert relative_error(step.predicted_kl, 0.5 * expected @ h.T @ sigma @ h @ expected) <= 1e-10


@pytest.mark.parametrize("name", ["per_sample_log_std", "many_tokens", "conv1d_net", "tied_linears"])
def test_every_kind_of_factor_carries_the_previous_direction(name: str) -> None:
    given = problem(name)
    transform, log_prob = record(CASES[name](), damping=0.1)
    before = torch.randn(given.scores.shape[1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    previous = unflat(before, transform.parameters)
    other = given.advantages.flip(0)
    step = transform(log_prob, given.advantages, given.weights, previous=previous, decay=0.7, reference=other)
    assert step.reference is not None
    assert list(step.reference) == list(step.direction)
    alone = dense.natural_gradient(given.scores, other, given.weights, 0.1)
    assert relative_error(flat(step.reference), alone) <= 1e-10
    expected = dense.kaczmarz_step(given.scores, given.advantages, given.weights, 0.1, before, 0.7)
    assert relative_error(flat(step.direction), expected) <= 1e-10


def test_previous_is_left_as_it_was() -> None:
    given = problem("tanh_mlp")
    transform, log_prob = record(CASES["tanh_mlp"]())
    previous = transform(log_prob, given.advantages).direction
    copy = {name: t.clone() for name, t in previous.items()}
    transform(log_prob, given.advantages, previous=previous, decay=0.9)
    assert all(torch.equal(previous[name], copy[name]) for name in copy)


def test_no_decay_ignores_the_previous_direction() -> None:
    given = problem("tanh_mlp")
    transform, log_prob = record(CASES["tanh_mlp"]())
    alone = transform(log_prob, given.advantages)
    previous = {name: torch.full_like(p, torch.nan) for name, p in transform.parameters.items()}
    carried = transform(log_prob, given.advantages, previous=previous, decay=0.0)
    assert torch.equal(flat(alone.direction), flat(carried.direction))


@pytest.mark.parametrize("name", ["tanh_mlp", "more_samples_than_parameters"])
def test_a_fixed_block_with_full_decay_converges_to_the_least_squares_solution(name: str) -> None:
    given = problem(name)
    transform, log_prob = record(CASES[name](), damping=0.01)
    g = None
    for _ in range(200):
        g = transform(log_prob, given.advantages, given.weights, previous=g, decay=1.0).direction
    assert g is not None
    # The minimum-norm solution, since every update is in the row space of H.
    root = given.weights.sqrt()
    expected = torch.linalg.pinv(root[:, None] * given.scores) @ (root * given.advantages)
    assert relative_error(flat(g), expected) <= 1e-8
