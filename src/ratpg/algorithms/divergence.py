"""How far an update has moved a policy."""

import torch

from ratpg.rl.batch import Batch
from ratpg.rl.policy import ActorCritic

IMAGES = 1024
"""Rows of a batch of images that are looked at: as many as give the mean to a few percent."""


@torch.no_grad()
def kl_and_entropy(policy: ActorCritic, batch: Batch) -> tuple[float, float]:
    """Mean KL divergence of the policy as it is now from the one that took the batch, and its entropy; in nats.

    Of large batches of images, for which a forward pass is slow, these are the means of `IMAGES` rows or a few more,
    evenly spread over the rollout.
    """
    if policy.spec.network != "mlp" and not policy.spec.lstm:
        batch = batch[torch.arange(0, len(batch), max(1, len(batch) // IMAGES), device=policy.device)]
    distribution = policy.actor(batch.observations).detach()
    return float(batch.distribution.kl(distribution).mean()), float(distribution.entropy().mean())
