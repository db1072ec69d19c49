"""How far an update has moved a policy."""

import torch

from ratpg.rl.batch import Batch
from ratpg.rl.policy import ActorCritic


@torch.no_grad()
def kl_and_entropy(policy: ActorCritic, batch: Batch) -> tuple[float, float]:
    """Mean KL divergence of the policy as it is now from the one that took the batch, and its entropy; in nats."""
    distribution = policy.actor(batch.observations).detach()
    return float(batch.distribution.kl(distribution).mean()), float(distribution.entropy().mean())
