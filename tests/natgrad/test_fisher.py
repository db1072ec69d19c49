"""The parameter-space twin against the oracle, and against the transform."""

import pytest
import torch

from ratpg.natgrad import AdvantageTransform, dense
from ratpg.natgrad.fisher import conjugate_gradient, flatten, kl_fisher, score_fisher, unflatten

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
    assert solution.iterations == 0
    assert not solution.x.any()


def test_flatten_and_unflatten_are_inverse() -> None:
    tensors = {"a": torch.randn(2, 3), "b": torch.randn(()), "c": torch.randn(4)}
    back = unflatten(flatten(list(tensors.values())), tensors)
    for name, tensor in tensors.items():
        assert torch.equal(back[name], tensor)
