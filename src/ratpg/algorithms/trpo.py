"""TRPO: natural gradients by Fisher-vector products and CG (Schulman et al. 2015, arXiv 1502.05477)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ratpg.algorithms.checks import require
from ratpg.algorithms.critic import AdamCritic
from ratpg.algorithms.divergence import kl_and_entropy
from ratpg.algorithms.joint import require_separate
from ratpg.natgrad.fisher import conjugate_gradient, flatten, kl_fisher, unflatten
from ratpg.optim.kl_band import KLBand
from ratpg.optim.trust_region import backtrack
from ratpg.rl.batch import Batch
from ratpg.rl.policy import ActorCritic


@dataclass(frozen=True)
class TRPOConfig:
    """Hyperparameters of TRPO."""

    target_kl: float | None = 0.03
    """KL divergence of a step, which a line search makes sure of; None for steps of `step_size` without a search."""
    damping: float = 0.1
    """Damping λ of the Fisher matrix, >= 0."""
    cg_iterations: int = 15
    """Fisher-vector products of a solve, at most."""
    line_search_trials: int = 10
    """Step lengths that the line search tries, each 0.8 of the one before."""
    step_size: float = 0.05
    """Without `target_kl`: first step size; adapted to the KL band after each rollout."""
    step_size_bounds: tuple[float, float] = (1e-4, 0.05)
    """Without `target_kl`: least and greatest step size."""
    kl_band: tuple[float, float] = (0.004, 0.016)
    """Without `target_kl`: range for the KL divergence from the behaviour policy."""
    max_step_norm: float | None = None
    """Without `target_kl`: bound ν on the norm of the step, min(η, ν/‖x‖)·x; None for no bound."""
    epochs: int = 1
    """Passes over each rollout by the actor."""
    minibatches: int = 1
    """Mini-batches in each of these passes."""
    critic_learning_rate: float = 1e-3
    """Adam's learning rate for the critic."""
    critic_epochs: int = 20
    """Passes over each rollout by the critic."""
    critic_minibatches: int = 16
    """Mini-batches in each of these passes."""
    critic_max_grad_norm: float = 5.0
    """Bound on the norm of the critic's gradient."""

    def __post_init__(self) -> None:
        require("damping", self.damping, at_least=0)
        for name in ("target_kl", "step_size", "max_step_norm", "critic_learning_rate", "critic_max_grad_norm"):
            require(name, getattr(self, name), above=0)
        for name in ("cg_iterations", "line_search_trials", "epochs", "minibatches"):
            require(name, getattr(self, name), at_least=1)
        for name in ("critic_epochs", "critic_minibatches"):
            require(name, getattr(self, name), at_least=1)
        for name in ("step_size_bounds", "kl_band"):
            low, high = getattr(self, name)
            require(name, low, above=0)
            require(name, high, at_least=low)
        least, greatest = self.step_size_bounds
        require("step_size", self.step_size, at_least=least, at_most=greatest)


class TRPO:
    """Updates a policy from rollouts.

    Per mini-batch: ``(F + λI) x = ∇ mean(r y)`` by conjugate gradients, ``F`` the Hessian of the mean KL divergence;
    then a step along ``x`` that ``½ xᵀ(F + λI)x`` scales to the target KL, shortened until the surrogate rises and
    the divergence from the behaviour policy is within the target.

    Args:
        policy: the policy to improve, in place.
        config: hyperparameters.
        generator: source of the mini-batches' order.

    Raises:
        BadConfig: where actor and critic share layers.
    """

    measures = False

    def __init__(self, policy: ActorCritic, config: TRPOConfig, generator: torch.Generator):
        require_separate(policy, "trpo")
        self.policy, self.config, self.generator = policy, config, generator
        self.parameters = dict(policy.actor.named_parameters())
        self.critic = AdamCritic(
            policy,
            learning_rate=config.critic_learning_rate,
            epochs=config.critic_epochs,
            minibatches=config.critic_minibatches,
            max_grad_norm=config.critic_max_grad_norm,
            generator=generator,
        )
        self.step_size = KLBand(config.step_size, config.kl_band, config.step_size_bounds)

    def update(self, batch: Batch, remaining: float = 1.0) -> dict[str, float]:
        """One rollout's worth of improvement.

        Args:
            batch: the rollout.
            remaining: share of the run that is still to come, from 1 to 0.

        Returns:
            What happened, for the log.
        """
        norms: list[Tensor] = []
        sizes: list[float] = []
        for _ in range(self.config.epochs):
            for minibatch in batch.minibatches(self.config.minibatches, self.generator):
                norm, size = self._actor_step(minibatch)
                norms.append(norm)
                sizes.append(size)
        kl, entropy = kl_and_entropy(self.policy, batch)
        self.step_size.update(kl)
        self.critic.begin(batch)
        return {
            "kl": kl,
            "entropy": entropy,
            "learning_rate": sum(sizes) / len(sizes),
            "grad_norm": float(torch.stack(norms).mean()),
            "failed_line_searches": sizes.count(0.0),
        }

    def _actor_step(self, batch: Batch) -> tuple[Tensor, float]:
        """Moves the actor; returns the norm of ``x`` and how much of it was taken."""
        config, actor = self.config, self.policy.actor
        parameters = list(self.parameters.values())
        advantages = batch.normalized_advantages
        distribution = actor(batch.observations)
        ratio = (distribution.log_prob(batch.actions) - batch.log_prob).exp()
        surrogate = (ratio * advantages).mean()
        gradient = flatten(torch.autograd.grad(surrogate, parameters, retain_graph=True))
        product = kl_fisher(distribution.detach().kl(distribution).mean(), parameters, config.damping)
        x = conjugate_gradient(product, gradient, config.cg_iterations).x
        norm = x.norm()

        if config.target_kl is None:
            size = self.step_size.value
            if config.max_step_norm is not None:
                size = min(size, config.max_step_norm / max(float(norm), 1e-12))
            with torch.no_grad():
                for parameter, change in zip(parameters, unflatten(x, self.parameters).values(), strict=True):
                    parameter.add_(change, alpha=size)
            return norm, size

        size = (2 * config.target_kl / max(float(x @ product(x)), 1e-12)) ** 0.5
        start, target_kl = float(surrogate.detach()), config.target_kl

        def accept() -> bool:
            moved = actor(batch.observations)
            gain = ((moved.log_prob(batch.actions) - batch.log_prob).exp() * advantages).mean()
            return bool((gain > start) & (batch.distribution.kl(moved).mean() <= target_kl))

        step = list(unflatten(size * x, self.parameters).values())
        return norm, size * backtrack(parameters, step, accept, config.line_search_trials)

    def state_dict(self) -> dict[str, Any]:
        return {"critic": self.critic.state_dict(), "step_size": self.step_size.value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.critic.load_state_dict(state["critic"])
        self.step_size.value = state["step_size"]
