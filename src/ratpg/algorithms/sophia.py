"""Sophia on the clipped surrogate: the optimiser of Liu et al. 2023 (arXiv 2305.14342) in PPO's place of Adam."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ratpg.algorithms.checks import BadConfig, require
from ratpg.algorithms.critic import AdamCritic
from ratpg.algorithms.divergence import kl_and_entropy
from ratpg.algorithms.joint import require_separate
from ratpg.algorithms.restoring import restore
from ratpg.optim.sophia import Sophia as SophiaOptimizer
from ratpg.optim.sophia import gauss_newton_bartlett, hutchinson
from ratpg.rl.batch import Batch
from ratpg.rl.policy import ActorCritic


@dataclass(frozen=True)
class SophiaConfig:
    """Hyperparameters of Sophia."""

    learning_rate: float = 3e-4
    """Step size η, the most that an entry moves in a step."""
    anneal_learning_rate: bool = True
    """Let the learning rate fall linearly to 0 over the run."""
    hessian: Literal["gauss-newton-bartlett", "hutchinson"] = "gauss-newton-bartlett"
    """Estimate of the Hessian's diagonal."""
    hessian_interval: int = 10
    """Mini-batches from one estimate to the next."""
    betas: tuple[float, float] = (0.965, 0.99)
    """Decays of the averages of the gradient and of the diagonal."""
    hessian_scale: float = 0.05
    """Share γ of the diagonal that divides the gradient's average before it is clipped to ±1."""
    clip_range: float = 0.2
    """Importance ratios beyond 1 ± this earn nothing more."""
    epochs: int = 4
    """Passes over each rollout by the actor."""
    minibatches: int = 16
    """Mini-batches in each of these passes."""
    max_grad_norm: float = 0.5
    """Bound on the norm of the gradient."""
    critic_learning_rate: float = 1e-3
    """Adam's learning rate for the critic."""
    critic_epochs: int = 4
    """Passes over each rollout by the critic."""
    critic_minibatches: int = 8
    """Mini-batches in each of these passes."""
    critic_max_grad_norm: float = 5.0
    """Bound on the norm of the critic's gradient."""

    def __post_init__(self) -> None:
        for name in ("learning_rate", "hessian_scale", "clip_range", "max_grad_norm"):
            require(name, getattr(self, name), above=0)
        for name in ("critic_learning_rate", "critic_max_grad_norm"):
            require(name, getattr(self, name), above=0)
        if self.hessian not in ("gauss-newton-bartlett", "hutchinson"):
            raise BadConfig(f"hessian must be gauss-newton-bartlett or hutchinson, got '{self.hessian}'")
        for beta in self.betas:
            require("betas", beta, at_least=0, at_most=1 - 1e-9)
        for name in ("hessian_interval", "epochs", "minibatches", "critic_epochs", "critic_minibatches"):
            require(name, getattr(self, name), at_least=1)


class Sophia:
    """Updates a policy from rollouts: PPO's clipped surrogate, moved by Sophia.

    The Gauss-Newton-Bartlett estimate is taken on actions drawn anew from the policy, Hutchinson's on the surrogate
    itself. The critic is fitted apart, by Adam.

    Args:
        policy: the policy to improve, in place.
        config: hyperparameters.
        generator: source of the mini-batches' order and of what the estimates draw.

    Raises:
        BadConfig: where actor and critic share layers.
    """

    measures = False

    def __init__(self, policy: ActorCritic, config: SophiaConfig, generator: torch.Generator):
        require_separate(policy, "sophia")
        self.policy, self.config, self.generator = policy, config, generator
        self.parameters = list(policy.actor.parameters())
        self.optimizer = SophiaOptimizer(self.parameters, config.learning_rate, config.betas, config.hessian_scale)
        self.critic = AdamCritic(
            policy,
            learning_rate=config.critic_learning_rate,
            epochs=config.critic_epochs,
            minibatches=config.critic_minibatches,
            max_grad_norm=config.critic_max_grad_norm,
            generator=generator,
        )
        self.steps = 0

    def update(self, batch: Batch, remaining: float = 1.0) -> dict[str, float]:
        """One rollout's worth of improvement.

        Args:
            batch: the rollout.
            remaining: share of the run that is still to come, from 1 to 0.

        Returns:
            What happened, for the log.
        """
        config = self.config
        learning_rate = config.learning_rate * (remaining if config.anneal_learning_rate else 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        norms = [
            self._actor_step(minibatch)
            for _ in range(config.epochs)
            for minibatch in batch.minibatches(config.minibatches, self.generator)
        ]
        kl, entropy = kl_and_entropy(self.policy, batch)
        self.critic.begin(batch)
        return {
            "kl": kl,
            "entropy": entropy,
            "learning_rate": learning_rate,
            "grad_norm": float(torch.stack(norms).mean()),
        }

    def _actor_step(self, batch: Batch) -> Tensor:
        if self.steps % self.config.hessian_interval == 0:
            self.optimizer.update_hessian(self._hessian(batch))
        self.steps += 1
        loss = self._loss(batch)
        self.optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm)
        self.optimizer.step()
        return norm

    def _loss(self, batch: Batch) -> Tensor:
        advantages = batch.normalized_advantages
        ratio = (self.policy.actor(batch.observations).log_prob(batch.actions) - batch.log_prob).exp()
        bounded = ratio.clamp(1 - self.config.clip_range, 1 + self.config.clip_range)
        return -torch.minimum(ratio * advantages, bounded * advantages).mean()

    def _hessian(self, batch: Batch) -> list[Tensor]:
        if self.config.hessian == "hutchinson":
            return hutchinson(self._loss(batch), self.parameters, self.generator)
        distribution = self.policy.actor(batch.observations)
        noise = self.policy.draw_noise((len(batch),), self.generator).to(batch.log_prob.dtype)
        sampled = distribution.detach().sample(noise)
        return gauss_newton_bartlett(distribution.log_prob(sampled), self.parameters)

    def state_dict(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict(), "critic": self.critic.state_dict(), "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        restore(self.optimizer, state["optimizer"])
        self.critic.load_state_dict(state["critic"])
        self.steps = state["steps"]
