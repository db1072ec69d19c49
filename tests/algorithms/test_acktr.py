"""ACKTR's update against a naive one: dense scores, Kronecker products in full, averages as sums, in float64."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn

from ratpg.algorithms import ACKTR, ACKTRConfig
from ratpg.algorithms.checks import BadConfig
from ratpg.natgrad import dense
from ratpg.rl.batch import Batch
from ratpg.rl.policy import ActorCritic
from ratpg.rl.spec import PolicySpec

from .problem import DISCRETE, GAUSSIAN, RECURRENT, ROWS, SHARED, make_batch, make_policy


@dataclass
class NaiveKFAC:
    """The inverse of the damped approximate Fisher matrix, a parameter-sized block for each layer.

    Of a linear layer's score ``(d aᵀ, d)`` the bias's part is ``d``, and the weight's is ``d`` times the inputs.
    """

    config: ACKTRConfig
    modules: list[list[Tensor]]
    moments: list[list[tuple[Tensor, ...]]] = field(default_factory=list)
    inverses: list[Tensor] = field(default_factory=list)
    bases: list[Tensor] = field(default_factory=list)
    scales: list[Tensor] = field(default_factory=list)

    def precondition(self, score: Tensor, gradient: list[Tensor]) -> list[Tensor]:
        """Takes the scores of a mini-batch in, and gives ``F̂⁻¹ g`` a module, weight and bias one below the other."""
        scores = [dense.score_matrix(score, module) for module in self.modules]
        factors = [self._factors(rows, module) for rows, module in zip(scores, self.modules, strict=True)]
        self.moments.append([tuple(f.T @ f / len(f) for f in pair) for pair in factors])
        fresh = (len(self.moments) - 1) % self.config.inverse_interval == 0
        averages = [self._average(index) for index in range(len(self.modules))]
        if fresh:
            self.inverses = [self._inverse(average) for average in averages]
            self.bases = [self._basis(average) for average in averages]
        if self.config.eigenvalue_corrected:
            squares = [(s @ basis).square().mean(0) for s, basis in zip(self._rows(factors), self.bases, strict=True)]
            keep = 0.0 if fresh else self.config.factor_decay
            before = squares if fresh else self.scales
            self.scales = [keep * old + (1 - keep) * now for old, now in zip(before, squares, strict=True)]
        direction = []
        for index, g in enumerate(gradient):
            if self.config.eigenvalue_corrected and len(averages[index]) == 2:
                basis = self.bases[index]
                direction.append(basis @ ((basis.T @ g) / (self.scales[index] + self.config.damping)))
            else:
                direction.append(self.inverses[index] @ g)
        return direction

    @staticmethod
    def _factors(rows: Tensor, module: list[Tensor]) -> tuple[Tensor, ...]:
        """Output gradients and homogeneous inputs of a layer; the scores themselves of a free parameter."""
        if len(module) == 1:
            return (rows,)
        weight, bias = module
        of_weight, d = rows.split([weight.numel(), bias.numel()], 1)
        a = (of_weight.view(-1, *weight.shape) * d[:, :, None]).sum(1) / d.square().sum(1, keepdim=True)
        return d, torch.cat([a, torch.ones(len(rows), 1, dtype=rows.dtype)], 1)

    @staticmethod
    def _rows(factors: list[tuple[Tensor, ...]]) -> Iterator[Tensor]:
        for pair in factors:
            yield pair[0] if len(pair) == 1 else torch.einsum("bi,bj->bij", *pair).flatten(1)

    def _average(self, index: int) -> tuple[Tensor, ...]:
        decay, count = self.config.factor_decay, len(self.moments)
        weights = [(1 - decay) * decay ** (count - 1 - j) / (1 - decay**count) for j in range(count)]
        histories = zip(*(moments[index] for moments in self.moments), strict=True)
        return tuple(torch.stack([w * m for w, m in zip(weights, h, strict=True)]).sum(0) for h in histories)

    def _inverse(self, average: tuple[Tensor, ...]) -> Tensor:
        damping = self.config.damping
        if len(average) == 1:
            return torch.linalg.inv(average[0] + damping * torch.eye(len(average[0]), dtype=torch.float64))
        outputs, inputs = average
        pi = ((inputs.trace() / len(inputs)) / (outputs.trace() / len(outputs))).sqrt()
        outputs = outputs + damping**0.5 / pi * torch.eye(len(outputs), dtype=torch.float64)
        inputs = inputs + damping**0.5 * pi * torch.eye(len(inputs), dtype=torch.float64)
        return torch.linalg.inv(torch.kron(outputs, inputs))

    @staticmethod
    def _basis(average: tuple[Tensor, ...]) -> Tensor:
        vectors = [torch.linalg.eigh(moment).eigenvectors for moment in average]
        return torch.kron(*vectors) if len(vectors) == 2 else torch.eye(len(average[0]), dtype=torch.float64)


def modules_of(network: nn.Module) -> list[list[Tensor]]:
    """Parameters of each module that has any, weight before bias."""
    found = [list(module.parameters(recurse=False)) for module in network.modules()]
    return [parameters for parameters in found if parameters]


def joined(tensors: list[Tensor]) -> Tensor:
    """Weight and bias side by side, flat, as rows of ``d āᵀ``."""
    if len(tensors) == 1:
        return tensors[0].flatten()
    weight, bias = tensors
    return torch.cat([weight, bias[:, None]], 1).flatten()


def parted(vector: Tensor, like: list[Tensor]) -> list[Tensor]:
    """`joined` undone."""
    if len(like) == 1:
        return [vector.view_as(like[0])]
    _, bias = like
    both = vector.view(len(bias), -1)
    return [both[:, :-1], both[:, -1]]


def naive_update(
    policy: ActorCritic, batch: Batch, config: ACKTRConfig, generator: torch.Generator, remaining: float
) -> tuple[list[float], list[bool]]:
    """Returns the actor's step sizes, and which of them the bound made."""
    share = remaining if config.anneal_step_size else 1.0
    policy.value_head.update(batch.returns)
    networks = [policy] if policy.spec.shared else [policy.actor, policy.critic]
    curvatures = [NaiveKFAC(config, modules_of(network)) for network in networks]
    sizes: list[float] = []
    bounded = []

    def move(curvature: NaiveKFAC, score: Tensor, gain: Tensor) -> tuple[float, bool]:
        gradient = [joined(list(torch.autograd.grad(gain, module, retain_graph=True))) for module in curvature.modules]
        direction = curvature.precondition(score, gradient)
        form = sum(float(g @ x) for g, x in zip(gradient, direction, strict=True))
        wanted, most = (2 * share * config.kl_clip / form) ** 0.5, share * config.max_step_size
        with torch.no_grad():
            for module, x in zip(curvature.modules, direction, strict=True):
                for parameter, part in zip(module, parted(x, module), strict=True):
                    parameter += min(wanted, most) * part
        return min(wanted, most), wanted > most

    for _ in range(config.epochs):
        for index in torch.randperm(ROWS, generator=generator).tensor_split(config.minibatches):
            y = batch.advantages[index]
            y = (y - y.mean()) / y.std(correction=0)
            targets = policy.value_head.normalize(batch.returns[index])
            noise = torch.randn(len(index), generator=generator).double() if policy.spec.shared else None
            log_prob = policy.actor(batch.observations[index]).log_prob(batch.actions[index])
            # The entropy's gradient is E[−log π ∇ log π]; of the samples at hand, whatever is subtracted from log π.
            bonus = config.entropy_coefficient * (log_prob.mean() - log_prob).detach()
            gain = ((log_prob - batch.log_prob[index]).exp() * (y + bonus)).mean()
            if noise is None:
                size, bound = move(curvatures[0], log_prob, gain)
                values = policy.critic(batch.observations[index])
                move(curvatures[1], values, -(targets - values).square().mean() / 2)
            else:
                values = policy.critic(batch.observations[index])
                error = config.value_coefficient * (targets - values).square().mean() / 2
                size, bound = move(curvatures[0], log_prob + noise * values, gain - error)
            sizes.append(size)
            bounded.append(bound)
    return sizes, bounded


@pytest.mark.parametrize("spec", [GAUSSIAN, DISCRETE, SHARED], ids=["gaussian", "categorical", "shared"])
@pytest.mark.parametrize("eigenvalue_corrected", [False, True], ids=["kfac", "ekfac"])
@pytest.mark.parametrize(
    ("kl_clip", "max_step_size", "bounded"), [(1e-3, 1e3, False), (1e3, 0.05, True)], ids=["kl clip", "step bound"]
)
@pytest.mark.parametrize(("anneal", "remaining"), [(True, 1.0), (True, 0.4), (False, 0.4)])
def test_an_update_equals_the_naive_one(
    spec: PolicySpec,
    eigenvalue_corrected: bool,
    kl_clip: float,
    max_step_size: float,
    bounded: bool,
    anneal: bool,
    remaining: float,
) -> None:
    config = ACKTRConfig(
        max_step_size=max_step_size,
        anneal_step_size=anneal,
        kl_clip=kl_clip,
        damping=0.05,
        factor_decay=0.8,
        inverse_interval=2,
        eigenvalue_corrected=eigenvalue_corrected,
        entropy_coefficient=0.3,
        value_coefficient=0.7,
        epochs=2,
        minibatches=3,
    )
    policy, naive = make_policy(spec), make_policy(spec)
    before = nn.utils.parameters_to_vector(policy.parameters()).detach().clone()
    batch = make_batch(policy)
    metrics = ACKTR(policy, config, torch.Generator().manual_seed(7)).update(batch, remaining)
    sizes, bounds = naive_update(naive, batch, config, torch.Generator().manual_seed(7), remaining)
    assert bounds == [bounded] * 6
    assert metrics["learning_rate"] == pytest.approx(sum(sizes) / 6, rel=1e-6)
    actual, expected = (nn.utils.parameters_to_vector(p.parameters()).detach() for p in (policy, naive))
    # The update adds 1e-8 to the root mean square that advantages are divided by.
    assert ((actual - expected).norm() / (expected - before).norm()).item() < 1e-7


def test_layers_before_an_lstm_have_their_limit_too() -> None:
    spec = PolicySpec((5,), (2,), hidden=(65, 65), lstm=3)
    assert 65 * 65 > 4096
    with pytest.raises(BadConfig, match="'weight' of Linear, which has 4225 entries"):
        ACKTR(make_policy(spec), ACKTRConfig(), torch.Generator())
    ACKTR(make_policy(RECURRENT), ACKTRConfig(), torch.Generator())
