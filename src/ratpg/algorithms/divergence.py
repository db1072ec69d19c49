"""How far an update has moved a policy."""

import torch
from torch import Tensor

from ratpg.rl.batch import Batch
from ratpg.rl.policy import ActorCritic

IMAGES = 1024
"""Rows of a batch of images that are looked at."""


@torch.no_grad()
def kl_and_entropy(policy: ActorCritic, batch: Batch) -> tuple[float, float]:
    """Mean KL divergence of the policy as it is now from the one that took the batch, and its entropy; in nats.

    Of larger batches of images, whose forward pass is slow, these are the means of `IMAGES` rows, evenly spread over
    the rollout's steps and environments; not so with an LSTM, whose rows cannot be had one by one.
    """
    if policy.spec.convolutional and not policy.spec.lstm and len(batch) > IMAGES:
        batch = batch[spread(len(batch)).to(policy.device)]
    distribution = policy.actor(batch.observations).detach()
    return float(batch.distribution.kl(distribution).mean()), float(distribution.entropy().mean())


def spread(rows: int) -> Tensor:
    """`IMAGES` indices below ``rows``, from multiples of the golden ratio: equal intervals may miss environments."""
    return (torch.arange(IMAGES, dtype=torch.float64) * ((5**0.5 - 1) / 2) % 1 * rows).long()
