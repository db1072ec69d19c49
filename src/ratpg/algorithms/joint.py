"""What algorithms with a Fisher matrix need where actor and critic share layers."""

import torch
from torch import Tensor

from ratpg.algorithms.checks import BadConfig
from ratpg.rl.batch import Batch
from ratpg.rl.policy import ActorCritic


def joint_score(policy: ActorCritic, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """One forward pass of both heads.

    Returns:
        A scalar a sample, ``log π + ε V`` with ``ε ~ N(0, 1)``, whose gradient is that of the joint log-likelihood of
        the action and of a value drawn from ``N(V(s), 1)``; the log-probabilities; the values in PopArt's units. All
        are ``[B]`` and have their graph.
    """
    distribution, values = policy.actor_critic(batch.observations)
    log_prob = distribution.log_prob(batch.actions)
    noise = torch.randn(len(batch), generator=generator).to(values)
    return log_prob + noise * values, log_prob, values


def require_separate(policy: ActorCritic, algo: str) -> None:
    """Raises `BadConfig` where actor and critic share layers."""
    if policy.spec.shared:
        raise BadConfig(f"{algo} needs separate networks: leave out --shared")
