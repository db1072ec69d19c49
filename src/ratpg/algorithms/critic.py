"""Two ways to fit a separate critic to λ-returns, in PopArt's normalised units."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ratpg.natgrad import AdvantageTransform
from ratpg.optim.kl_band import KLBand
from ratpg.rl.batch import Batch
from ratpg.rl.policy import ActorCritic

GAUSS_NEWTON_BOUNDS = (1e-4, 1.0)
"""Least and greatest step of the Gauss-Newton critic; 1 is the whole step."""


class AdamCritic:
    """Regression by Adam with a bound on the gradient's norm.

    Args:
        policy: whose critic is fitted, in place.
        learning_rate: Adam's.
        epochs: passes over each rollout.
        minibatches: mini-batches in each pass.
        max_grad_norm: bound on the gradient's norm.
        generator: source of the mini-batches' order.
    """

    def __init__(
        self,
        policy: ActorCritic,
        *,
        learning_rate: float,
        epochs: int,
        minibatches: int,
        max_grad_norm: float,
        generator: torch.Generator,
    ):
        self.policy, self.generator = policy, generator
        self.epochs, self.minibatches, self.max_grad_norm = epochs, minibatches, max_grad_norm
        self.optimizer = torch.optim.Adam(policy.critic.parameters(), lr=learning_rate, fused=True)

    def fit(self, batch: Batch) -> float:
        """Fits the critic to a rollout; returns the mean squared error on the way."""
        policy = self.policy
        policy.value_head.update(batch.returns)
        targets = policy.value_head.normalize(batch.returns)
        parameters = list(policy.critic.parameters())
        losses: list[Tensor] = []
        for _ in range(self.epochs):
            order = torch.randperm(len(batch), generator=self.generator).to(targets.device)
            for index in order.tensor_split(min(self.minibatches, len(batch))):
                loss = functional.mse_loss(policy.critic(batch.observations[index]), targets[index])
                self.optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(parameters, self.max_grad_norm)
                self.optimizer.step()
                losses.append(loss.detach())
        return float(torch.stack(losses).mean())

    def state_dict(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])


class GaussNewtonCritic:
    """Regression by damped Gauss-Newton steps, the natural gradient of a Gaussian value with unit variance.

    With residuals ``r = R − V(s)`` and rows ``J = ∇V`` each mini-batch moves the critic along
    ``Jᵀ (λI + JJᵀ/B)⁻¹ r / B``: the transform of `ratpg.natgrad` with another scalar. The step size keeps
    ``½ E[(V − V_before)²]``, that Gaussian's KL divergence, inside a band.

    Args:
        policy: whose critic is fitted, in place.
        damping: λ.
        step_size: the KL band's step size, in its state when the run begins.
        epochs: passes over each rollout.
        minibatches: mini-batches in each pass.
        generator: source of the mini-batches' order.
    """

    def __init__(
        self,
        policy: ActorCritic,
        *,
        damping: float,
        step_size: KLBand,
        epochs: int,
        minibatches: int,
        generator: torch.Generator,
    ):
        self.policy, self.generator, self.step_size = policy, generator, step_size
        self.epochs, self.minibatches = epochs, minibatches
        self.transform = AdvantageTransform(policy.critic, damping)

    def fit(self, batch: Batch) -> float:
        """Fits the critic to a rollout; returns the mean squared error on the way."""
        policy = self.policy
        policy.value_head.update(batch.returns)
        targets = policy.value_head.normalize(batch.returns)
        with torch.no_grad():
            before = policy.critic(batch.observations)
        losses: list[Tensor] = []
        for _ in range(self.epochs):
            order = torch.randperm(len(batch), generator=self.generator).to(targets.device)
            for index in order.tensor_split(min(self.minibatches, len(batch))):
                with self.transform.record():
                    values = policy.critic(batch.observations[index])
                residuals = targets[index] - values.detach()
                step = self.transform(values, residuals)
                with torch.no_grad():
                    for name, g in step.direction.items():
                        self.transform.parameters[name].add_(g, alpha=self.step_size.value)
                losses.append(residuals.square().mean())
        with torch.no_grad():
            moved = policy.critic(batch.observations) - before
        self.step_size.update(0.5 * float(moved.square().mean()))
        return float(torch.stack(losses).mean())

    def state_dict(self) -> dict[str, Any]:
        return {"step_size": self.step_size.value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step_size.value = state["step_size"]


Critic = AdamCritic | GaussNewtonCritic
