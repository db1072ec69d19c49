"""Fits a separate critic to λ-returns."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from ratpg.rl.batch import Batch
from ratpg.rl.policy import ActorCritic


def fit_critic(
    policy: ActorCritic,
    batch: Batch,
    optimizer: torch.optim.Optimizer,
    *,
    epochs: int,
    minibatches: int,
    max_grad_norm: float,
    generator: torch.Generator,
) -> float:
    """Regresses the critic on PopArt-normalised returns; returns the mean squared error, in normalised units."""
    policy.value_head.update(batch.returns)
    targets = policy.value_head.normalize(batch.returns)
    parameters = list(policy.critic.parameters())
    losses: list[Tensor] = []
    for _ in range(epochs):
        order = torch.randperm(len(batch), generator=generator).to(targets.device)
        for index in order.tensor_split(min(minibatches, len(batch))):
            loss = functional.mse_loss(policy.critic(batch.observations[index]), targets[index])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, max_grad_norm)
            optimizer.step()
            losses.append(loss.detach())
    return float(torch.stack(losses).mean())
