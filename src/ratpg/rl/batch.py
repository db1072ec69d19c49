"""A rollout made ready for an update: normalised, valued, flattened, without the steps that only reset."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor

from ratpg.rl.advantage import gae
from ratpg.rl.distributions import Distribution
from ratpg.rl.policy import ActorCritic, Observations
from ratpg.rl.rollout import Rollout

GRAIN = 16
"""Large batches and mini-batches have a multiple of this many rows: oneDNN compiles a kernel for each shape it meets,
which costs as much as the product itself and is kept in memory, so that shapes should come back."""
LARGE = 128
"""Rows from which that is worth a few of them."""


class Probe(Protocol):
    """Looks at what is done with mini-batches."""

    def watching(self, minibatch: "Batch") -> AbstractContextManager[None]:
        """Context in which the mini-batch is used."""
        ...


@dataclass(frozen=True)
class Batch:
    """``M`` transitions under the policy that took them.

    A *part* of it is an index of rows; of a `ratpg.rl.sequence_batch.SequenceBatch`, of environments.

    Attributes:
        observations: normalised, ``[M, ...]``.
        actions: ``[M]`` or ``[M, A]``.
        distribution: the behaviour policy's, detached.
        log_prob: of the actions under it, ``[M]``.
        advantages: GAE, ``[M]``.
        returns: λ-returns, ``[M]``.
        probe: what looks at the steps that are taken on its mini-batches, if anything does.
    """

    observations: Observations
    actions: Tensor
    distribution: Distribution
    log_prob: Tensor
    advantages: Tensor
    returns: Tensor
    probe: Probe | None = None

    def __len__(self) -> int:
        return len(self.advantages)

    @property
    def normalized_advantages(self) -> Tensor:
        """Advantages centred and divided by their root mean square, ``[M]``."""
        return normalized(self.advantages)

    def __getitem__(self, part: Tensor) -> Self:
        rows = self.rows(part)
        return type(self)(
            self.observations[part],
            self.actions[rows],
            self.distribution[rows],
            self.log_prob[rows],
            self.advantages[rows],
            self.returns[rows],
        )

    def rows(self, part: Tensor) -> Tensor:
        """The rows of a part, as networks return them for its observations."""
        return part

    def first(self, rows: int) -> Self:
        """So many rows, or all where there are fewer."""
        return self[torch.arange(min(len(self), rows), device=self.advantages.device)]

    def parts(self, count: int, generator: torch.Generator) -> list[Tensor]:
        """Parts of a random permutation, as `shuffled_parts` makes them."""
        return [index.to(self.advantages.device) for index in shuffled_parts(len(self), count, generator)]

    def minibatches(self, count: int, generator: torch.Generator) -> Iterator[Self]:
        """The mini-batches of these parts, each in use until the next is asked for."""
        for part in self.parts(count, generator):
            minibatch = self[part]
            with nullcontext() if self.probe is None else self.probe.watching(minibatch):
                yield minibatch


def normalized(advantages: Tensor) -> Tensor:
    """Centred, and divided by the root mean square."""
    centred = advantages - advantages.mean()
    return centred / (centred.square().mean().sqrt() + 1e-8)


def shuffled_parts(rows: int, count: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Indices of ``count`` mini-batches that together are a random permutation of some rows.

    They are equal in size to within one; where they are large, all of the next multiple of `GRAIN`, and the last one
    is filled up with rows of the first, unless it would have no others.
    """
    order = torch.randperm(rows, generator=generator)
    size = -(-rows // count)
    if size < LARGE:
        return order.tensor_split(min(count, rows))
    size = -(-size // GRAIN) * GRAIN
    if rows <= size * (count - 1):
        return order.tensor_split(count)
    return torch.cat([order, order[: size * count - rows]]).split(size)


@torch.no_grad()
def make_batch(policy: ActorCritic, rollout: Rollout, rewards: Tensor, gamma: float, lam: float) -> Batch:
    """Values every observation and estimates advantages.

    Of a large rollout the last few transitions are left out, fewer than `GRAIN`.

    Args:
        policy: the policy that collected the rollout, unchanged since.
        rollout: ``[T, N]`` steps.
        rewards: what to learn from, ``[T, N]``: the rollout's own, or scaled.
        gamma: discount γ.
        lam: GAE's λ.
    """
    everything = policy.normalize(rollout.observations)  # [T + 1, N, d]
    distribution: Distribution | None = None
    if policy.spec.shared:  # one pass for both; where features were kept while acting, only the last are missing
        if rollout.features is None:
            features = policy.actor.body(everything.flatten(0, 1))
        else:
            features = torch.cat([rollout.features.flatten(0, 1), policy.actor.body(everything[-1])])
        distribution, outputs = policy.heads(features)
        values = policy.value_head.denormalize(outputs)
    else:
        values = policy.value(everything.flatten(0, 1))
    values = values.view(everything.shape[:2])
    advantages = gae(rewards, values, rollout.terminated, rollout.truncated, rollout.valid, gamma, lam)
    kept = rollout.valid.flatten().nonzero().squeeze(1)
    if len(kept) >= LARGE:
        kept = kept[: len(kept) // GRAIN * GRAIN]
    observations, actions = everything[:-1].flatten(0, 1)[kept], rollout.actions.flatten(0, 1)[kept]
    distribution = (policy.actor(observations) if distribution is None else distribution[kept]).detach()
    return Batch(
        observations=observations,
        actions=actions,
        distribution=distribution,
        log_prob=distribution.log_prob(actions),
        advantages=advantages.flatten()[kept],
        returns=(advantages + values[:-1]).flatten()[kept],
    )
