"""The parameter-space twin against the oracle, and against the transform."""

import math

import pytest
import torch

from ratpg.natgrad import AdvantageTransform, NotFinite, dense
from ratpg.natgrad.fisher import Stop, conjugate_gradient, flatten, kl_fisher, score_fisher, unflatten

from .case import Case
from .cases import CASES


def some_cases() -> list[str]:
    """A few structures are enough: the factors themselves are tested over the whole table."""
    return sorted(CASES)[::9]


def recorded(case: Case) -> tuple[AdvantageTransform, torch.Tensor]:
    transform = AdvantageTransform(case.actor, damping=0.05)
    with transform.record():
        log_prob = case.log_prob()
    return transform, log_prob


@pytest.mark.parametrize("name", some_cases())
def test_the_score_fisher_product_is_that_of_the_dense_matrix(name: str) -> None:
    transform, log_prob = recorded(CASES[name]())
    weights = torch.rand(len(log_prob), dtype=torch.float64) + 0.5
    scores = dense.score_matrix(log_prob, list(transform.parameters.values()))
    product = score_fisher(transform._recorder.factors(log_prob), transform.parameters, weights, 0.05)
    v = torch.randn(scores.shape[1], dtype=torch.float64)
    expected = scores.T @ dense.covariance(weights) @ scores @ v + 0.05 * v
    assert (product(v) - expected).norm() <= 1e-10 * expected.norm()


@pytest.mark.parametrize("name", some_cases())
def test_converged_conjugate_gradients_on_it_are_the_transforms_direction(name: str) -> None:
    transform, log_prob = recorded(CASES[name]())
    advantages = torch.randn(len(log_prob), dtype=torch.float64)
    weights = torch.rand(len(log_prob), dtype=torch.float64) + 0.5
    step = transform(log_prob, advantages, weights)
    factors = transform._recorder.factors(log_prob)
    vanilla: dict[str, torch.Tensor] = {}
    for factor in factors:
        vanilla.update(factor.rmatvec(weights * advantages / len(weights)))
    b = flatten([vanilla[name] for name in transform.parameters])
    solution = conjugate_gradient(score_fisher(factors, transform.parameters, weights, 0.05), b, 10 * len(b), 1e-13)
    direction = flatten([step.direction[name] for name in transform.parameters])
    assert (solution.x - direction).norm() <= 1e-8 * direction.norm()


def test_the_kl_fisher_product_of_a_gaussian_mean_is_known_in_closed_form() -> None:
    torch.manual_seed(0)
    inputs, weight = torch.randn(50, 3, dtype=torch.float64), torch.randn(3, dtype=torch.float64, requires_grad=True)
    mean = inputs @ weight
    kl = (0.5 * (mean - mean.detach()).square() / 0.25).mean()  # standard deviation 0.5
    v = torch.randn(3, dtype=torch.float64)
    expected = inputs.T @ inputs @ v / 50 / 0.25 + 0.1 * v
    torch.testing.assert_close(kl_fisher(kl, [weight], 0.1)(v), expected)


def test_conjugate_gradients_end_after_as_many_steps_as_there_are_eigenvalues() -> None:
    torch.manual_seed(0)
    q = torch.linalg.qr(torch.randn(40, 40, dtype=torch.float64))[0]
    matrix = q @ torch.diag(torch.tensor([1.0, 3.0, 10.0, 50.0], dtype=torch.float64).repeat(10)) @ q.T
    b = torch.randn(40, dtype=torch.float64)
    solution = conjugate_gradient(lambda v: matrix @ v, b, 100, tolerance=1e-12)
    assert solution.iterations == 4
    assert solution.residual <= 1e-12
    torch.testing.assert_close(matrix @ solution.x, b)


def test_of_a_zero_right_hand_side_the_solution_is_zero() -> None:
    solution = conjugate_gradient(lambda v: v, torch.zeros(3), 10)
    assert (solution.iterations, solution.residual, solution.stopped) == (0, 0.0, Stop.CONVERGED)
    assert not solution.x.any()


def test_flatten_and_unflatten_are_inverse() -> None:
    tensors = {"a": torch.randn(2, 3), "b": torch.randn(()), "c": torch.randn(4)}
    back = unflatten(flatten(list(tensors.values())), tensors)
    for name, tensor in tensors.items():
        assert torch.equal(back[name], tensor)


def ill_conditioned() -> torch.Tensor:
    return torch.diag(torch.logspace(0, 3, 30)) + 0.1


@pytest.mark.parametrize("power", [-100, -83, -40, 40, 100])
def test_the_size_of_the_right_hand_side_changes_no_digit(power: int) -> None:
    matrix, b = ill_conditioned(), torch.linspace(-1, 2, 30)
    expected = conjugate_gradient(lambda v: matrix @ v, b, 20, 1e-6)
    solution = conjugate_gradient(lambda v: matrix @ v, b * 2.0**power, 20, 1e-6)
    assert expected.stopped is Stop.ITERATIONS
    assert (solution.iterations, solution.residual, solution.stopped) == (20, expected.residual, Stop.ITERATIONS)
    torch.testing.assert_close(solution.x / 2.0**power, expected.x, rtol=0, atol=0)


@pytest.mark.parametrize("size", [1e-38, 1e-25, 1e25, 3e38])
def test_the_solution_of_a_right_hand_side_at_the_ends_of_single_precision(size: float) -> None:
    b = size * torch.tensor([1.0, -0.5, 0.25])
    solution = conjugate_gradient(lambda v: torch.tensor([1.0, 2.0, 4.0]) * v, b, 10, 1e-6)
    torch.testing.assert_close(solution.x / size, torch.tensor([1.0, -0.25, 0.0625]), rtol=1e-4, atol=0)
    assert solution.stopped is Stop.CONVERGED
    assert solution.residual <= 1e-6


@pytest.mark.parametrize("last", [0.0, -1.0])
def test_a_direction_without_curvature_ends_it(last: float) -> None:
    diagonal = torch.tensor([1.0, 3.0, last], dtype=torch.float64)
    b = torch.tensor([1.0, 1.0, 0.5], dtype=torch.float64)
    solution = conjugate_gradient(lambda v: diagonal * v, b, 10)
    assert solution.stopped is Stop.CURVATURE
    assert solution.x.isfinite().all()
    assert solution.x @ b > 0  # what was found before still ascends
    nothing = conjugate_gradient(lambda v: 0 * v, b, 10)
    assert (nothing.stopped, nothing.iterations, nothing.residual) == (Stop.CURVATURE, 1, 1.0)
    assert not nothing.x.any()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_refused(value: float) -> None:
    b = torch.ones(3)
    with pytest.raises(NotFinite, match="a product of conjugate gradients is not finite"):
        conjugate_gradient(lambda v: torch.tensor([1.0, value, 1.0]) * v, b, 10)
    b[1] = value
    with pytest.raises(NotFinite, match="the right-hand side is not finite"):
        conjugate_gradient(lambda v: v, b, 10)
    with pytest.raises(NotFinite, match="overflows: raise the damping"):
        conjugate_gradient(lambda v: 1e-20 * v, torch.full((3,), 1e25), 10)
