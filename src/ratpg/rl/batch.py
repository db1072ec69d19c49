"""A rollout made ready for an update: normalised, valued, flattened, without the steps that only reset."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ratpg.rl.advantage import gae
from ratpg.rl.distributions import Distribution
from ratpg.rl.policy import ActorCritic
from ratpg.rl.rollout import Rollout


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
        centred = self.advantages - self.advantages.mean()
        return centred / (centred.square().mean().sqrt() + 1e-8)

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
        """``count`` parts of a random permutation, equal in size to within one."""
        order = torch.randperm(len(self), generator=generator).to(self.advantages.device)
        for index in order.tensor_split(min(count, len(self))):
            yield self[index]


@torch.no_grad()
def make_batch(policy: ActorCritic, rollout: Rollout, rewards: Tensor, gamma: float, lam: float) -> Batch:
    """Values every observation and estimates advantages.

    Args:
        policy: the policy that collected the rollout, unchanged since.
        rollout: ``[T, N]`` steps.
        rewards: what to learn from, ``[T, N]``: the rollout's own, or scaled.
        gamma: discount γ.
        lam: GAE's λ.
    """
    normalized = policy.normalize(rollout.observations)  # [T + 1, N, d]
    values = policy.value(normalized.flatten(0, 1)).view(normalized.shape[:2])
    advantages = gae(rewards, values, rollout.terminated, rollout.truncated, rollout.valid, gamma, lam)
    valid = rollout.valid
    observations, actions = normalized[:-1][valid], rollout.actions[valid]
    distribution = policy.actor(observations).detach()
    return Batch(
        observations=observations,
        actions=actions,
        distribution=distribution,
        log_prob=distribution.log_prob(actions),
        advantages=advantages[valid],
        returns=(advantages + values[:-1])[valid],
    )
