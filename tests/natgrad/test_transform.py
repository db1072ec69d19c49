"""The transformed advantage, the direction and what they predict equal the oracle's, over the whole table of cases."""

import pytest
import torch

from ratpg.natgrad import AdvantageTransform, dense

from .cases import CASES
from .oracle import flat, problem, record, relative_error, solve

DAMPINGS = [1e-3, 0.1, 10.0]


@pytest.mark.parametrize("damping", DAMPINGS)
@pytest.mark.parametrize("name", CASES)
def test_step_is_the_oracles(name: str, damping: float) -> None:
    given = problem(name)
    h, sigma = given.scores, dense.covariance(given.weights)
    expected = dense.transformed_advantage(h, given.advantages, given.weights, damping)
    transform, _, step = solve(name, damping)
    direction = flat(step.direction)

    assert step.solution.method == "cholesky"
    assert list(step.direction) == list(transform.parameters)
    assert relative_error(transform.gram(), h @ h.T) <= 1e-10
    assert relative_error(step.advantage, expected) <= 1e-10
    assert relative_error(direction, h.T @ sigma @ expected) <= 1e-10
    assert relative_error(step.predicted_gain, direction @ h.T @ sigma @ given.advantages) <= 1e-10
    assert relative_error(step.predicted_kl, 0.5 * direction @ h.T @ sigma @ h @ direction) <= 1e-10


@pytest.mark.parametrize("damping", DAMPINGS)
@pytest.mark.parametrize("name", CASES)
def test_direction_solves_the_parameter_sized_system(name: str, damping: float) -> None:
    given = problem(name)
    expected = dense.natural_gradient(given.scores, given.advantages, given.weights, damping)
    _, _, step = solve(name, damping)
    assert relative_error(flat(step.direction), expected) <= 1e-10


@pytest.mark.parametrize("damping", [1e-3, 0.1])
@pytest.mark.parametrize("name", CASES)
def test_float32_keeps_four_digits_or_what_the_conditioning_leaves(name: str, damping: float) -> None:
    given = problem(name)
    h, sigma = given.scores, dense.covariance(given.weights)
    expected = dense.transformed_advantage(h, given.advantages, given.weights, damping)
    # Rounding K to float32 alone moves the solution by up to ε κ; how far depends on the machine's products.
    condition = 1 + float(torch.linalg.matrix_norm(sigma.sqrt() @ h, 2)) ** 2 / damping
    tolerance = max(1e-4, 0.3 * torch.finfo(torch.float32).eps * condition)
    transform, _, step = solve(name, damping, torch.float32)
    assert step.solution.method == "cholesky"
    assert relative_error(transform.gram(), h @ h.T) <= 1e-5
    assert relative_error(step.advantage, expected) <= tolerance
    assert relative_error(flat(step.direction), h.T @ sigma @ expected) <= tolerance


@pytest.mark.parametrize("name", CASES)
def test_backward_of_the_ordinary_loss_leaves_minus_the_direction(name: str) -> None:
    transform, log_prob, step = solve(name)
    (-(problem(name).weights * step.advantage * log_prob).mean()).backward()
    for parameter, direction in zip(transform.parameters.values(), step.direction.values(), strict=True):
        assert parameter.grad is not None
        assert parameter.grad.shape == direction.shape
    gradient = flat(parameter.grad for parameter in transform.parameters.values() if parameter.grad is not None)
    assert relative_error(-gradient, flat(step.direction)) <= 1e-10


def test_weights_are_ones_by_default() -> None:
    transform, log_prob = record(CASES["tanh_mlp"]())
    y = problem("tanh_mlp").advantages
    without = transform(log_prob, y)
    assert relative_error(without.advantage, transform(log_prob, y, torch.ones_like(y)).advantage) == 0


def test_step_carries_no_graph() -> None:
    given = problem("tanh_mlp")
    transform, log_prob = record(CASES["tanh_mlp"]())
    # An importance ratio has a graph of its own when it comes straight from the loss.
    step = transform(log_prob, given.advantages, weights=(log_prob - log_prob.detach()).exp())
    tensors = [step.advantage, step.predicted_gain, step.predicted_kl, *step.direction.values()]
    assert not any(t.requires_grad for t in tensors)


def test_the_recorded_graph_serves_several_right_hand_sides() -> None:
    given = problem("shared_trunk")
    transform, log_prob = record(CASES["shared_trunk"]())
    # The critic's right-hand side in a shared network is all ones.
    for y in (given.advantages, torch.ones_like(given.advantages)):
        expected = dense.natural_gradient(given.scores, y, given.weights, 0.1)
        assert relative_error(flat(transform(log_prob, y, given.weights).direction), expected) <= 1e-10


@pytest.mark.parametrize("name", ["more_samples_than_parameters", "one_sample", "tanh_mlp"])
def test_predictions_hold_without_damping(name: str) -> None:
    # λ = 0 with more samples than parameters leaves part of y out of reach: no parameter change gains it.
    given = problem(name)
    h, sigma = given.scores, dense.covariance(given.weights)
    _, _, step = solve(name, damping=0.0)
    direction = flat(step.direction)
    assert relative_error(step.predicted_gain, direction @ h.T @ sigma @ given.advantages) <= 1e-6
    assert relative_error(step.predicted_kl, 0.5 * direction @ h.T @ sigma @ h @ direction) <= 1e-6


def test_undamped_direction_is_the_least_squares_fit_of_the_advantages() -> None:
    given = problem("more_samples_than_parameters")
    root = given.weights.sqrt()
    expected = torch.linalg.pinv(root[:, None] * given.scores) @ (root * given.advantages)
    _, _, step = solve("more_samples_than_parameters", damping=0.0)
    assert step.solution.method in ("jitter", "eigh")
    # Ã is of size 1/jitter where no score reaches, and takes most digits of the direction with it.
    assert relative_error(flat(step.direction), expected) <= 1e-2


def test_parameters_handed_over_in_a_sequence_are_named_by_position() -> None:
    case = CASES["handed_over_log_std"]()
    assert list(AdvantageTransform(case.actor).parameters) == ["0.0.weight", "0.0.bias", "0.2.weight", "0.2.bias", "1"]


def test_tied_parameters_are_named_once() -> None:
    case = CASES["shared_trunk_in_two_modules"]()
    transform = AdvantageTransform(case.actor)
    assert [id(p) for p in transform.parameters.values()] == [id(p) for p in case.parameters]


def test_several_right_hand_sides_are_solved_as_one_by_one() -> None:
    given = problem("relu_mlp")
    other = given.advantages.roll(1).square()
    transform, log_prob = record(CASES["relu_mlp"]().to(torch.float64))
    solution = transform.solve(log_prob, torch.stack([given.advantages, other], 1), given.weights)
    assert solution.method == "cholesky"
    for column, y in zip(solution.x.T, (given.advantages, other), strict=True):
        expected = dense.transformed_advantage(given.scores, y, given.weights, 0.1)
        assert relative_error(column, expected) <= 1e-10


@pytest.mark.parametrize("shape", [(), (0,), (2, 2)])
def test_right_hand_sides_that_are_no_matrix_are_refused(shape: tuple[int, ...]) -> None:
    transform, log_prob = record(CASES["relu_mlp"]().to(torch.float64))
    with pytest.raises(ValueError, match=r"targets must be"):
        transform.solve(log_prob, torch.ones(len(log_prob), *shape, dtype=torch.float64))
