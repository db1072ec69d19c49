"""What must hold of a natural gradient whatever the network: symmetry, linearity, limits, invariance, ascent."""

import pytest
import torch
from torch import Tensor, nn

from ratpg.natgrad import AdvantageTransform, Step, dense

from .case import gaussian, perceptron
from .cases import CASES, Case
from .oracle import flat, problem, record, relative_error

NAMES = ["relu_mlp", "shared_trunk", "many_tokens", "conv2d_net", "more_samples_than_parameters", "two_panels"]


def _step(name: str, advantages: Tensor | None = None, weights: Tensor | None = None, damping: float = 0.1) -> Step:
    given = problem(name)
    transform, log_prob = record(CASES[name](), damping)
    y = given.advantages if advantages is None else advantages
    return transform(log_prob, y, given.weights if weights is None else weights)


@pytest.mark.parametrize("name", NAMES)
def test_permuting_the_batch_permutes_the_advantage_and_leaves_the_direction(name: str) -> None:
    given, case = problem(name), CASES[name]()
    order = torch.randperm(len(given.advantages), generator=torch.Generator().manual_seed(0))
    shuffled = Case(case.actor, tuple(t[order] for t in case.data), case.compute)
    transform, log_prob = record(shuffled)
    step, expected = transform(log_prob, given.advantages[order], given.weights[order]), _step(name)
    assert relative_error(step.advantage, expected.advantage[order]) <= 1e-10
    assert relative_error(flat(step.direction), flat(expected.direction)) <= 1e-10


@pytest.mark.parametrize("name", NAMES)
def test_step_is_linear_in_the_advantages(name: str) -> None:
    y = problem(name).advantages
    other = torch.randn(len(y), generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    first, second, both = _step(name, y), _step(name, other), _step(name, 3 * y - 2 * other)
    assert relative_error(both.advantage, 3 * first.advantage - 2 * second.advantage) <= 1e-10
    assert relative_error(flat(both.direction), 3 * flat(first.direction) - 2 * flat(second.direction)) <= 1e-10


@pytest.mark.parametrize("name", NAMES)
def test_much_damping_gives_the_vanilla_gradient(name: str) -> None:
    given, case = problem(name), CASES[name]()
    surrogate = (given.weights * given.advantages * case.log_prob()).mean()
    vanilla = flat(torch.autograd.grad(surrogate, case.parameters))
    errors = [relative_error(d * flat(_step(name, damping=d).direction), vanilla) for d in (1e4, 1e6)]
    # The difference is of first order in 1/λ.
    assert errors[1] <= 1e-3
    assert errors[1] == pytest.approx(errors[0] / 100, rel=0.1)


@pytest.mark.parametrize("name", NAMES)
def test_weights_and_damping_scale_together(name: str) -> None:
    # w and λ only count by their ratio, save that Ã is of the size of 1/λ.
    given, expected = problem(name), _step(name, damping=0.1)
    step = _step(name, weights=7 * given.weights, damping=0.7)
    assert relative_error(flat(step.direction), flat(expected.direction)) <= 1e-10
    assert relative_error(7 * step.advantage, expected.advantage) <= 1e-10


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_taken_twice_gives_the_same_direction(name: str) -> None:
    # What would betray a missing or a doubled 1/B.
    given, case = problem(name), CASES[name]()
    doubled = Case(case.actor, tuple(torch.cat([t, t]) for t in case.data), case.compute)
    transform, log_prob = record(doubled)
    step = transform(log_prob, given.advantages.repeat(2), given.weights.repeat(2))
    assert relative_error(flat(step.direction), flat(_step(name).direction)) <= 1e-10
    assert relative_error(step.predicted_kl, _step(name).predicted_kl) <= 1e-10


@pytest.mark.parametrize("damping", [1e-3, 0.1, 10.0])
@pytest.mark.parametrize("name", NAMES)
def test_direction_is_an_ascent_direction(name: str, damping: float) -> None:
    given, case = problem(name), CASES[name]()
    surrogate = (given.weights * given.advantages * case.log_prob()).mean()
    vanilla = flat(torch.autograd.grad(surrogate, case.parameters))
    step = _step(name, damping=damping)
    assert flat(step.direction) @ vanilla > 0
    assert step.predicted_gain > 0
    assert step.predicted_kl > 0


@pytest.mark.parametrize("name", ["tanh_mlp", "shared_trunk", "many_tokens", "owned_log_std", "gru"])
def test_moving_along_the_direction_gains_what_was_predicted(name: str) -> None:
    given, case, size = problem(name), CASES[name](), 1e-5
    transform, log_prob = record(case)
    step = transform(log_prob, given.advantages, given.weights)
    with torch.no_grad():
        for parameter, direction in zip(transform.parameters.values(), step.direction.values(), strict=True):
            parameter.add_(direction, alpha=size)
        change = case.log_prob() - log_prob
    gain = (given.weights * given.advantages * change).mean()
    assert relative_error(gain / size, step.predicted_gain) <= 1e-3
    # To second order the sampled KL is half the mean square of the change in log-probability.
    kl = 0.5 * (given.weights * change.square()).mean()
    assert relative_error(kl / size**2, step.predicted_kl) <= 1e-3


class ScaledHead(nn.Module):
    """The same policy as ``trunk`` and ``head`` in other units: the head's output is ``matrix @ head'(h)``."""

    def __init__(self, trunk: nn.Module, head: nn.Linear, matrix: Tensor):
        super().__init__()
        self.trunk, self.head = trunk, nn.Linear(head.in_features, head.out_features, dtype=torch.float64)
        self.register_buffer("matrix", matrix)
        with torch.no_grad():
            self.head.weight.copy_(torch.linalg.solve(matrix, head.weight))
            self.head.bias.copy_(torch.linalg.solve(matrix, head.bias))

    def forward(self, obs: Tensor) -> Tensor:
        return self.head(self.trunk(obs)) @ self.matrix.T


def test_little_damping_makes_the_step_independent_of_the_parametrisation() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        trunk, head = nn.Sequential(perceptron(4, 3), nn.Tanh()).double(), nn.Linear(3, 2).double()
        # More samples than parameters: below that every y can be fitted, and Hg is y in any units.
        obs, action, y = (torch.randn(80, n, dtype=torch.float64) for n in (4, 2, 1))
        matrix = torch.tensor([[3.0, -1.0], [0.5, 0.2]], dtype=torch.float64)
        policies = [nn.Sequential(trunk, head), ScaledHead(trunk, head, matrix)]

    def changes(damping: float) -> list[Tensor]:
        """``H g``, the change of each log-probability, in both parametrisations."""
        found = []
        for policy in policies:
            transform, log_prob = record(Case(policy, (obs, action), lambda o, a, p=policy: gaussian(p(o), a)), damping)
            step = transform(log_prob, y[:, 0])
            found.append(dense.score_matrix(log_prob, list(transform.parameters.values())) @ flat(step.direction))
        return found

    in_one, in_other = changes(1e-9)
    assert relative_error(in_other, in_one) <= 1e-4
    # With damping the units of the parameters count.
    in_one, in_other = changes(1.0)
    assert relative_error(in_other, in_one) >= 1e-2


def test_a_frozen_copy_of_the_policy_adds_nothing() -> None:
    case, given = CASES["tanh_mlp"](), problem("tanh_mlp")
    frozen = CASES["tanh_mlp"]().actor
    assert isinstance(frozen, nn.Module)
    transform = AdvantageTransform([case.actor, frozen.requires_grad_(False)])
    with transform.record():
        log_prob = case.log_prob() - case.log_prob().detach() + gaussian(frozen(case.data[0]), case.data[1])
    step = transform(log_prob, given.advantages, given.weights)
    assert relative_error(flat(step.direction), flat(_step("tanh_mlp").direction)) <= 1e-10
