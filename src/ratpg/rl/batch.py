"""A rollout made ready for an update: normalised, valued, flattened, without the steps that only reset."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ratpg.rl.advantage import gae
from ratpg.rl.distributions import Distribution
from ratpg.rl.policy import ActorCritic
from ratpg.rl.rollout import Rollout

GRAIN = 16
"""Large batches and mini-batches have a multiple of this many rows: oneDNN compiles a kernel for each shape it meets,
which costs as much as the product itself and is kept in memory, so that shapes should come back."""
LARGE = 128
"""Rows from which that is worth a few of them."""


@dataclass(frozen=True)
class Batch:
    """``M`` transitions under the policy that took them.

    Attributes:
        observations: normalised, ``[M, d]``.
        actions: ``[M]`` or ``[M, A]``.
        distribution: the behaviour policy's, detached.
        log_prob: of the actions under it, ``[M]``.
        advantages: GAE, ``[M]``.
        returns: λ-returns, ``[M]``.
    """

    observations: Tensor
    actions: Tensor
    distribution: Distribution
    log_prob: Tensor
    advantages: Tensor
    returns: Tensor

    def __len__(self) -> int:
        return len(self.advantages)

    @property
    def normalized_advantages(self) -> Tensor:
        """Advantages centred and divided by their root mean square, ``[M]``."""
        return normalized(self.advantages)

    def __getitem__(self, index: Tensor) -> "Batch":
        return Batch(
            self.observations[index],
            self.actions[index],
            self.distribution[index],
            self.log_prob[index],
            self.advantages[index],
            self.returns[index],
        )

    def minibatches(self, count: int, generator: torch.Generator) -> Iterator["Batch"]:
        """Parts of a random permutation, as `shuffled_parts` makes them."""
        for index in shuffled_parts(len(self), count, generator):
            yield self[index.to(self.advantages.device)]


def normalized(advantages: Tensor) -> Tensor:
    """Centred, and divided by the root mean square."""
    centred = advantages - advantages.mean()
    return centred / (centred.square().mean().sqrt() + 1e-8)


def shuffled_parts(rows: int, count: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Indices of ``count`` mini-batches that together are a random permutation of some rows.

    They are equal in size to within one; where they are large, all of the next multiple of `GRAIN`, and the last one
    is filled up with rows of the first.
    """
    order = torch.randperm(rows, generator=generator)
    size = -(-rows // count)
    if size < LARGE:
        return order.tensor_split(min(count, rows))
    size = -(-size // GRAIN) * GRAIN
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
    values = policy.value(everything.flatten(0, 1)).view(everything.shape[:2])
    advantages = gae(rewards, values, rollout.terminated, rollout.truncated, rollout.valid, gamma, lam)
    kept = rollout.valid.flatten().nonzero().squeeze(1)
    if len(kept) >= LARGE:
        kept = kept[: len(kept) // GRAIN * GRAIN]
    observations, actions = everything[:-1].flatten(0, 1)[kept], rollout.actions.flatten(0, 1)[kept]
    distribution = policy.actor(observations).detach()
    return Batch(
        observations=observations,
        actions=actions,
        distribution=distribution,
        log_prob=distribution.log_prob(actions),
        advantages=advantages.flatten()[kept],
        returns=(advantages + values[:-1]).flatten()[kept],
    )
