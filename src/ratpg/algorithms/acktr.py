"""ACKTR: natural gradients by Kronecker factors in a trust region (Wu et al. 2017, arXiv 1708.05144)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ratpg.algorithms.checks import require
from ratpg.natgrad import Recorder
from ratpg.natgrad.factors import Factor
from ratpg.optim.kfac import KFAC
from ratpg.rl.batch import Batch
from ratpg.rl.policy import ActorCritic


@dataclass(frozen=True)
class ACKTRConfig:
    """Hyperparameters of ACKTR."""

    max_step_size: float = 0.25
    """Greatest step size along the natural gradient."""
    anneal_step_size: bool = True
    """Let the greatest step size and the KL clip fall linearly to 0 over the run."""
    kl_clip: float = 0.001
    """Divergence ½ gᵀF̂g that one step may cause, by the quadratic model; for the critic too."""
    damping: float = 0.01
    """Damping λ of the Fisher matrix, > 0."""
    factor_decay: float = 0.95
    """Decay of the averages of the Kronecker factors."""
    inverse_interval: int = 5
    """Mini-batches from one inversion of the factors to the next."""
    eigenvalue_corrected: bool = False
    """EKFAC: the block's own diagonal in the eigenbasis of the factors."""
    entropy_coefficient: float = 0.0
    """Weight of the entropy: this much of the negative log-probability is added to the normalised advantages."""
    epochs: int = 4
    """Passes over each rollout."""
    minibatches: int = 2
    """Mini-batches in each of these passes."""

    def __post_init__(self) -> None:
        for name in ("max_step_size", "kl_clip", "damping"):
            require(name, getattr(self, name), above=0)
        require("factor_decay", self.factor_decay, at_least=0, at_most=1 - 1e-6)
        require("entropy_coefficient", self.entropy_coefficient, at_least=0)
        for name in ("inverse_interval", "epochs", "minibatches"):
            require(name, getattr(self, name), at_least=1)


class ACKTR:
    """Updates a policy from rollouts.

    Per mini-batch the actor moves by ``η F̂⁻¹ ∇ mean(r y)`` and the critic, as a Gaussian of unit variance, by
    ``η Ĝ⁻¹ ∇ mean(½ (R − V)²)``, each with its Kronecker-factored matrix and ``η = min(η_max, √(2δ / gᵀF̂g))``.
    Deviations from the paper: no momentum, the actions of the rollout stand for sampled ones in the Fisher matrix
    (they were drawn from the policy), and the critic is fitted in PopArt's units.

    Args:
        policy: the policy to improve, in place.
        config: hyperparameters.
        generator: source of the mini-batches' order.
    """

    def __init__(self, policy: ActorCritic, config: ACKTRConfig, generator: torch.Generator):
        self.policy, self.config, self.generator = policy, config, generator
        self.actor, self.critic = Recorder.over(policy.actor), Recorder.over(policy.critic)
        options = config.damping, config.factor_decay, config.inverse_interval, config.eigenvalue_corrected
        self.actor_kfac, self.critic_kfac = KFAC(*options), KFAC(*options)

    def update(self, batch: Batch, remaining: float = 1.0) -> dict[str, float]:
        """One rollout's worth of improvement.

        Args:
            batch: the rollout.
            remaining: share of the run that is still to come, from 1 to 0.

        Returns:
            What happened, for the log.
        """
        config, policy = self.config, self.policy
        share = remaining if config.anneal_step_size else 1.0
        policy.value_head.update(batch.returns)
        sizes, norms, errors = [], [], []
        for _ in range(config.epochs):
            for minibatch in batch.minibatches(config.minibatches, self.generator):
                size, norm = self._actor_step(minibatch, share)
                sizes.append(size)
                norms.append(norm)
                errors.append(self._critic_step(minibatch, share))
        with torch.no_grad():
            distribution = policy.actor(batch.observations).detach()
            kl = float(batch.distribution.kl(distribution).mean())
        return {
            "kl": kl,
            "entropy": float(distribution.entropy().mean()),
            "learning_rate": float(torch.stack(sizes).mean()),
            "grad_norm": float(torch.stack(norms).mean()),
            "value_loss": float(torch.stack(errors).mean()),
        }

    def _actor_step(self, batch: Batch, share: float) -> tuple[Tensor, Tensor]:
        with self.actor.record():
            log_prob = self.policy.actor(batch.observations).log_prob(batch.actions)
        ratio = (log_prob.detach() - batch.log_prob).exp()
        advantages = batch.advantages - batch.advantages.mean()
        advantages = advantages / (advantages.square().mean().sqrt() + 1e-8)
        surprise = log_prob.detach().mean() - log_prob.detach()
        advantages = advantages + self.config.entropy_coefficient * surprise
        factors = self.actor.factors(log_prob)
        return self._step(self.actor, self.actor_kfac, factors, ratio * advantages, share)

    def _critic_step(self, batch: Batch, share: float) -> Tensor:
        with self.critic.record():
            values = self.policy.critic(batch.observations)
        residuals = self.policy.value_head.normalize(batch.returns) - values.detach()
        self._step(self.critic, self.critic_kfac, self.critic.factors(values), residuals, share)
        return residuals.square().mean()

    @torch.no_grad()
    def _step(
        self, recorder: Recorder, kfac: KFAC, factors: Sequence[Factor], v: Tensor, share: float
    ) -> tuple[Tensor, Tensor]:
        """Moves along ``F̂⁻¹ Hᵀv/B``; returns step size and the norm of that direction."""
        gradient: dict[str, Tensor] = {}
        for factor in factors:
            gradient |= factor.rmatvec(v / len(v))
        kfac.update(factors)
        direction = kfac.precondition(factors, gradient)
        # gᵀ(F̂ + λI)g, of which the gradient is one side already.
        curvature = torch.stack([(direction[name] * gradient[name]).sum() for name in gradient]).sum()
        size = (2 * share * self.config.kl_clip / curvature.clamp(min=1e-20)).sqrt()
        size = size.clamp(max=share * self.config.max_step_size)
        for name, g in direction.items():
            recorder.parameters[name].add_(g * size)
        return size, torch.stack([g.norm() for g in direction.values()]).norm()

    def state_dict(self) -> dict[str, Any]:
        return {"actor_kfac": self.actor_kfac.state_dict(), "critic_kfac": self.critic_kfac.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.actor_kfac.load_state_dict(state["actor_kfac"])
        self.critic_kfac.load_state_dict(state["critic_kfac"])
