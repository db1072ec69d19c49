"""Ways to the natural gradient ``(λI + HᵀH/N)⁻¹ Hᵀy/N`` of one batch, flat ``[p]``; and its reference."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from ratpg import AdvantageTransform
from ratpg.natgrad import Recorder, Step
from ratpg.natgrad.factors import Factor
from ratpg.natgrad.fisher import conjugate_gradient, flatten, kl_fisher, score_fisher
from ratpg.optim.kfac import KFAC
from ratpg.rl.policy import DiscreteActor, GaussianActor
from snapshots import Snapshot

Actor = GaussianActor | DiscreteActor


def materialised_scores(actor: Actor, observations: Tensor, actions: Tensor, chunk: int = 256) -> Tensor:
    """``H [N, p]`` row by row with `torch.func`, in the dtype of the data."""

    def log_prob(values: dict[str, Tensor], observation: Tensor, action: Tensor) -> Tensor:
        return functional_call(actor, values, (observation[None],)).log_prob(action[None]).squeeze(0)

    values = {name: parameter.detach().to(observations.dtype) for name, parameter in actor.named_parameters()}
    size = sum(value.numel() for value in values.values())
    scores = observations.new_empty(len(observations), size)
    rows = vmap(grad(log_prob), in_dims=(None, 0, 0))
    for start in range(0, len(observations), chunk):
        part = slice(start, start + chunk)
        gradients = rows(values, observations[part], actions[part])
        scores[part] = torch.cat([gradients[name].flatten(1) for name in values], 1)
    return scores


@dataclass(frozen=True)
class Reference:
    """The exact step in float64, from materialised scores and a dense N × N system.

    Attributes:
        direction: ``[p]``.
        error_bound: on ``direction``'s relative error: ``‖b − (λI + HᵀH/N)x‖ / (λ‖x‖)``, the residual of the
            parameter-sized system, whose inverse is at most ``1/λ``.
        seconds: what ``direction`` took.
    """

    direction: Tensor
    error_bound: float
    seconds: float


def reference(actor: Actor, batch: Snapshot, damping: float) -> Reference:
    """Nothing here is shared with `AdvantageTransform`."""
    start = time.perf_counter()
    scores = materialised_scores(actor, batch.observations.double(), batch.actions.double())
    y, n = batch.advantages.double(), len(batch.advantages)
    kernel = scores @ scores.T / n
    identity = torch.eye(n, dtype=torch.float64)
    direction = scores.T @ torch.linalg.solve(damping * identity + kernel, y) / n
    seconds = time.perf_counter() - start
    return Reference(direction, error_bound(direction, scores, y, damping), seconds)


def error_bound(direction: Tensor, scores: Tensor, y: Tensor, damping: float) -> float:
    """Bound on the relative error of a direction, by its residual: no eigenvalue of the system is below λ."""
    residual = scores.T @ (y - scores @ direction) / len(y) - damping * direction
    return float(residual.norm() / (damping * direction.norm()))


class Ways:
    """The same step in float32, each way as fast as this library has it.

    Args:
        batch: of one policy, on which it has not moved yet: all importance ratios are one.
        damping: λ.
    """

    def __init__(self, batch: Snapshot, damping: float):
        self.batch, self.damping, self.actor = batch, damping, batch.policy.actor
        self.recorder = Recorder.over(self.actor, verify="first")
        self.transform = AdvantageTransform(self.actor, damping, verify="first")

    def _factors_and_gradient(self) -> tuple[list[Factor], dict[str, Tensor]]:
        with self.recorder.record():
            log_prob = self.actor(self.batch.observations).log_prob(self.batch.actions)
        factors = self.recorder.factors(log_prob)
        surrogate = (self.batch.advantages * log_prob).mean()
        gradients = torch.autograd.grad(surrogate, list(self.recorder.parameters.values()))
        return factors, dict(zip(self.recorder.parameters, gradients, strict=True))

    def vanilla(self) -> Tensor:
        """``Hᵀy/N``."""
        log_prob = self.actor(self.batch.observations).log_prob(self.batch.actions)
        surrogate = (self.batch.advantages * log_prob).mean()
        return flatten(torch.autograd.grad(surrogate, list(self.actor.parameters())))

    def diagonal(self) -> Tensor:
        """``Hᵀy/N`` divided by ``λ + diag(HᵀH/N)``."""
        factors, gradient = self._factors_and_gradient()
        squares: dict[str, Tensor] = {}
        for factor in factors:
            squares |= factor.squares(torch.full_like(self.batch.advantages, 1 / len(self.batch.advantages)))
        return flatten([g / (squares[name] + self.damping) for name, g in gradient.items()])

    def kfac(self, eigenvalue_corrected: bool = False) -> Tensor:
        """Kronecker factors of this batch alone."""
        factors, gradient = self._factors_and_gradient()
        kfac = KFAC(self.damping, decay=0.0, eigenvalue_corrected=eigenvalue_corrected)
        kfac.update(factors)
        direction = kfac.precondition(factors, gradient)
        return flatten([direction[name] for name in gradient])

    def ekfac(self) -> Tensor:
        """KFAC with the block's own diagonal in the eigenbasis."""
        return self.kfac(eigenvalue_corrected=True)

    def cg_scores(self, iterations: int) -> Tensor:
        """Conjugate gradients with products of ``HᵀH/N``, from factors."""
        factors, gradient = self._factors_and_gradient()
        ones = torch.ones_like(self.batch.advantages)
        product = score_fisher(factors, self.recorder.parameters, ones, self.damping)
        return conjugate_gradient(product, flatten(list(gradient.values())), iterations).x

    def cg_kl(self, iterations: int) -> Tensor:
        """Conjugate gradients with products of the Hessian of the KL divergence, as TRPO has them."""
        distribution = self.actor(self.batch.observations)
        parameters = list(self.actor.parameters())
        surrogate = (self.batch.advantages * distribution.log_prob(self.batch.actions)).mean()
        gradient = flatten(torch.autograd.grad(surrogate, parameters, retain_graph=True))
        product = kl_fisher(distribution.detach().kl(distribution).mean(), parameters, self.damping)
        return conjugate_gradient(product, gradient, iterations).x

    def rat(self) -> Tensor:
        """The transform on the whole batch."""
        return flatten(list(self._step(self.transform, slice(None), self.batch.advantages).direction.values()))

    def kaczmarz(self, block: int, decay: float, iterations: int) -> Iterator[Tensor]:
        """RAT's iterate after each of so many random mini-batches."""
        direction = None
        for rows in self._minibatches(block, iterations):
            direction = self._step(self.transform, rows, self.batch.advantages[rows], direction, decay).direction
            yield flatten(list(direction.values()))

    def dual_kaczmarz(self, block: int, iterations: int) -> Iterator[Tensor]:
        """Block Kaczmarz whose fixed point is the damped step of the whole batch, which the plain one's is not.

        Coordinate descent on ``(λNI + K)α = y`` with ``g = Hᵀα``: a mini-batch adds
        ``(λNI + K_ττ)⁻¹(y_τ − H_τg − λNα_τ)`` to its ``α_τ``.
        """
        n = len(self.batch.advantages)
        transform = AdvantageTransform(self.actor, self.damping * n / block)
        direction, dual = None, torch.zeros_like(self.batch.advantages)
        for rows in self._minibatches(block, iterations):
            target = self.batch.advantages[rows] - self.damping * n * dual[rows]
            step = self._step(transform, rows, target, direction, 1.0)
            dual[rows] += step.advantage / block
            direction = step.direction
            yield flatten(list(direction.values()))

    def _minibatches(self, block: int, count: int) -> Iterator[Tensor]:
        """Parts of random permutations; those that do not fill a block are left out."""
        n, generator = len(self.batch.advantages), torch.Generator().manual_seed(0)
        order = torch.cat([torch.randperm(n, generator=generator)[: n // block * block] for _ in range(count)])
        yield from order[: count * block].split(block)

    def _step(
        self,
        transform: AdvantageTransform,
        rows: Tensor | slice,
        advantages: Tensor,
        previous: dict[str, Tensor] | None = None,
        decay: float = 0.0,
    ) -> Step:
        with transform.record():
            log_prob = self.actor(self.batch.observations[rows]).log_prob(self.batch.actions[rows])
        return transform(log_prob, advantages, previous=previous, decay=decay)


def timed(way: Callable[[], Tensor], repeats: int = 3) -> tuple[Tensor, float]:
    """What it returns, and the median of the seconds it takes, after one call to warm up."""
    direction, seconds = way(), []
    for _ in range(repeats):
        start = time.perf_counter()
        way()
        seconds.append(time.perf_counter() - start)
    return direction, sorted(seconds)[repeats // 2]


def timed_each(way: Callable[[], Iterator[Tensor]], repeats: int = 3) -> list[tuple[Tensor, float]]:
    """The same for an iteration: each iterate, and the seconds until then."""
    rounds: list[list[float]] = []
    directions: list[Tensor] = []
    for _ in range(1 + repeats):
        start, times, directions = time.perf_counter(), [], []
        for direction in way():
            times.append(time.perf_counter() - start)
            directions.append(direction)
        rounds.append(times)
    medians = [sorted(column)[repeats // 2] for column in zip(*rounds[1:], strict=True)]
    return list(zip(directions, medians, strict=True))
