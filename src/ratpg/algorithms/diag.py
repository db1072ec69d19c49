"""The damped diagonal of the empirical Fisher matrix, which the authors' code calls Sophia."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ratpg.algorithms.checks import require
from ratpg.algorithms.critic import AdamCritic
from ratpg.algorithms.divergence import kl_and_entropy
from ratpg.algorithms.joint import joint_score, value_noise
from ratpg.natgrad import Recorder
from ratpg.optim.kl_band import KLBand
from ratpg.rl.batch import Batch
from ratpg.rl.policy import ActorCritic


@dataclass(frozen=True)
class DiagConfig:
    """Hyperparameters of the diagonal Fisher preconditioner."""

    damping: float = 0.01
    """Damping λ of the diagonal, > 0."""
    step_size: float = 0.001
    """First step size η; adapted to the KL band after each rollout."""
    step_size_bounds: tuple[float, float] = (1e-4, 2.0)
    """Least and greatest step size."""
    kl_band: tuple[float, float] = (0.015, 0.06)
    """Range for the KL divergence from the behaviour policy: above it the step size is divided by 1.5, below it
    multiplied by 1.5."""
    max_step_norm: float | None = None
    """Bound ν on the norm of the step, min(η, ν/‖g‖)·g; None for no bound."""
    epochs: int = 2
    """Passes over each rollout by the actor."""
    minibatches: int = 2
    """Mini-batches in each of these passes."""
    entropy_coefficient: float = 0.0
    """First weight of the policy's entropy, falling linearly to 0 at the end of the run: this much of the negative
    log-probability is added to the normalised advantages."""
    ratio_bounds: tuple[float, float] = (0.1, 10.0)
    """Importance ratios are clamped to this range."""
    value_coefficient: float = 1.0
    """With shared layers: weight of the critic's loss beside the surrogate."""
    critic_learning_rate: float = 1e-3
    """Adam's learning rate for the critic."""
    critic_max_grad_norm: float = 5.0
    """Bound on the norm of the critic's gradient."""
    critic_epochs: int = 4
    """Passes over each rollout by the critic."""
    critic_minibatches: int = 8
    """Mini-batches in each of these passes."""

    def __post_init__(self) -> None:
        for name in ("damping", "step_size", "max_step_norm", "critic_learning_rate", "critic_max_grad_norm"):
            require(name, getattr(self, name), above=0)
        for name in ("entropy_coefficient", "value_coefficient"):
            require(name, getattr(self, name), at_least=0)
        for name in ("epochs", "minibatches", "critic_epochs", "critic_minibatches"):
            require(name, getattr(self, name), at_least=1)
        for name in ("step_size_bounds", "kl_band", "ratio_bounds"):
            low, high = getattr(self, name)
            require(name, low, above=0)
            require(name, high, at_least=low)
        least, greatest = self.step_size_bounds
        require("step_size", self.step_size, at_least=least, at_most=greatest)


class Diag:
    """Updates a policy from rollouts.

    Per mini-batch one step along ``HᵀΣy / (diag(HᵀΣH) + λ)``, element by element, of size ``min(η, ν/‖g‖)``.
    The diagonal comes from the recorded factors, without per-sample gradients. Where actor and critic share layers it
    is that of the joint likelihood (`joint_score`), and the gradient that of surrogate and critic's loss together.

    Args:
        policy: the policy to improve, in place.
        config: hyperparameters.
        generator: source of the mini-batches' order, and of the values drawn where layers are shared.
    """

    measures = False

    def __init__(self, policy: ActorCritic, config: DiagConfig, generator: torch.Generator):
        self.policy, self.config, self.generator = policy, config, generator
        self.recorder = Recorder.over(policy if policy.spec.shared else policy.actor, verify="first")
        self.critic: AdamCritic | None = None
        if not policy.spec.shared:
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
        norms = []
        if self.critic is None:
            self.policy.value_head.update(batch.returns)
        for _ in range(self.config.epochs):
            for minibatch in batch.minibatches(self.config.minibatches, self.generator):
                norms.append(self._step(minibatch, self.config.entropy_coefficient * remaining))
        kl, entropy = kl_and_entropy(self.policy, batch)
        used = self.step_size.value
        self.step_size.update(kl)
        if self.critic is not None:
            self.critic.begin(batch)
        return {
            "kl": kl,
            "entropy": entropy,
            "learning_rate": used,
            "grad_norm": float(torch.stack(norms).mean()),
        }

    def _step(self, batch: Batch, entropy_coefficient: float) -> Tensor:
        """Moves the actor, or both; returns the direction's norm."""
        config = self.config
        with self.recorder.record():
            if self.critic is None:
                noise = value_noise(batch, self.generator)
                score, log_prob, values = joint_score(self.policy, batch.observations, batch.actions, noise)
            else:
                score = log_prob = self.policy.actor(batch.observations).log_prob(batch.actions)
        ratio = (log_prob.detach() - batch.log_prob).exp().clamp(*config.ratio_bounds)
        advantages = batch.normalized_advantages
        advantages = advantages + entropy_coefficient * (log_prob.mean() - log_prob).detach()
        gain = (ratio * advantages * log_prob).mean()
        if self.critic is None:
            error = (self.policy.value_head.normalize(batch.returns) - values).square().mean()
            gain = gain - 0.5 * config.value_coefficient * error
        factors = self.recorder.factors(score)
        gradients = torch.autograd.grad(gain, list(self.recorder.parameters.values()))
        with torch.no_grad():
            diagonal: dict[str, Tensor] = {}
            for factor in factors:
                diagonal |= factor.squares(ratio / len(ratio))
            named = zip(self.recorder.parameters, gradients, strict=True)
            direction = {name: gradient / (diagonal[name] + config.damping) for name, gradient in named}
            norm = torch.stack([g.norm() for g in direction.values()]).norm()
            size = torch.full_like(norm, self.step_size.value)
            if config.max_step_norm is not None:
                size = size.clamp(max=config.max_step_norm / norm)
            for name, g in direction.items():
                self.recorder.parameters[name].add_(g * size)
        return norm

    def state_dict(self) -> dict[str, Any]:
        return {"critic": self.critic and self.critic.state_dict(), "step_size": self.step_size.value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.critic is not None:
            self.critic.load_state_dict(state["critic"])
        self.step_size.value = state["step_size"]
