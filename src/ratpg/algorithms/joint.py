"""What algorithms with a Fisher matrix need where actor and critic share layers."""

import torch
from torch import Tensor

from ratpg.algorithms.checks import BadConfig
from ratpg.rl.batch import Batch
from ratpg.rl.policy import ActorCritic, Observations


def value_noise(batch: Batch, generator: torch.Generator) -> Tensor:
    """``ε ~ N(0, 1)`` for each sample, ``[B]``."""
    return torch.randn(len(batch), generator=generator).to(batch.returns, non_blocking=True)


def joint_score(
    policy: ActorCritic, observations: Observations, actions: Tensor, noise: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """One forward pass of both heads.

    Args:
        policy: with shared layers.
        observations, actions: columns of a `Batch`.
        noise: `value_noise` for it.

    Returns:
        A scalar a sample, ``log π + ε V``, whose gradient is that of the joint log-likelihood of the action and of a
        value drawn from ``N(V(s), 1)``; the log-probabilities; the values in PopArt's units. All are ``[B]`` and have
        their graph.
    """
    distribution, values = policy.actor_critic(observations)
    log_prob = distribution.log_prob(actions)
    return log_prob + noise * values, log_prob, values


def joint_rows(policy: ActorCritic, observations: Observations, actions: Tensor) -> Tensor:
    """``log π`` and ``V`` of each sample, one after the other.

    A row is an output of one forward pass, so that each observation is passed twice.

    Args:
        policy: with shared layers.
        observations, actions: columns of a `Batch`.

    Returns:
        ``[2 B]``, with its graph: the log-probability of the first sample, its value in PopArt's units, that of the
        second, and so on.
    """
    count = len(observations) if isinstance(observations, Tensor) else observations.inputs.shape[1]
    twice = torch.arange(count, device=actions.device).repeat_interleave(2)
    distribution, values = policy.actor_critic(observations[twice])
    log_prob = distribution.log_prob(actions.repeat_interleave(2, 0))
    of_value = torch.arange(len(values), device=values.device) % 2 == 1
    return torch.where(of_value, values, log_prob)


def require_separate(policy: ActorCritic, algo: str) -> None:
    """Raises `BadConfig` where actor and critic share layers."""
    if policy.spec.shared:
        raise BadConfig(f"{algo} needs separate networks: leave out --shared")
