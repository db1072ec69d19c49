"""ACKTR: natural gradients by Kronecker factors in a trust region (Wu et al. 2017, arXiv 1708.05144)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ratpg.algorithms.checks import BadConfig, require
from ratpg.algorithms.divergence import kl_and_entropy
from ratpg.algorithms.joint import joint_score, value_noise
from ratpg.natgrad import Recorder
from ratpg.natgrad.layers import has_factor
from ratpg.optim.kfac import KFAC, LARGEST_BLOCK
from ratpg.rl.batch import Batch
from ratpg.rl.networks.recurrent import RecurrentBody
from ratpg.rl.policy import ActorCritic


@dataclass(frozen=True)
class ACKTRConfig:
    """Hyperparameters of ACKTR."""

    max_step_size: float = 1.0
    """Greatest step size along the natural gradient."""
    anneal_step_size: bool = True
    """Let the greatest step size and the KL clip fall linearly to 0 over the run."""
    kl_clip: float = 0.003
    """Divergence ½ η² gᵀ(F̂ + λI)g that one step ηg may cause, by the quadratic model; for the critic too."""
    damping: float = 0.1
    """Damping λ of the Fisher matrix, > 0."""
    factor_decay: float = 0.9
    """Decay of the averages of the Kronecker factors."""
    inverse_interval: int = 5
    """Mini-batches from one inversion of the factors to the next; with EKFAC, from one eigenbasis to the next."""
    eigenvalue_corrected: bool = False
    """EKFAC: the block's own diagonal in the eigenbasis of the factors."""
    entropy_coefficient: float = 0.01
    """Weight of the entropy: this much of the negative log-probability is added to the normalised advantages."""
    value_coefficient: float = 1.0
    """With shared layers: weight of the critic's loss beside the surrogate."""
    epochs: int = 4
    """Passes over each rollout."""
    minibatches: int = 2
    """Mini-batches in each of these passes."""

    def __post_init__(self) -> None:
        for name in ("max_step_size", "kl_clip", "damping"):
            require(name, getattr(self, name), above=0)
        require("factor_decay", self.factor_decay, at_least=0, at_most=1 - 1e-6)
        for name in ("entropy_coefficient", "value_coefficient"):
            require(name, getattr(self, name), at_least=0)
        for name in ("inverse_interval", "epochs", "minibatches"):
            require(name, getattr(self, name), at_least=1)


class ACKTR:
    """Updates a policy from rollouts.

    Per mini-batch the actor moves by ``η F̂⁻¹ ∇ mean(r y)`` and the critic, as a Gaussian of unit variance, by
    ``−η Ĝ⁻¹ ∇ mean(½ (R − V)²)``, each with its damped Kronecker-factored matrix (`KFAC`), and
    ``η = min(η_max, √(2δ / gᵀF̂g))`` for a direction ``g``.
    Where they share layers both are one network with one matrix, that of the joint likelihood (`joint_score`).
    Deviations from the paper: no momentum, the actions of the rollout stand for sampled ones in the Fisher matrix
    (they were drawn from the policy), and the critic is fitted in PopArt's units.

    Args:
        policy: the policy to improve, in place.
        config: hyperparameters.
        generator: source of the mini-batches' order, and of the values drawn.

    Raises:
        BadConfig: where a parameter is too large for a block of its own, as an LSTM's are and those before it.
    """

    measures = False
    critic = None

    def __init__(self, policy: ActorCritic, config: ACKTRConfig, generator: torch.Generator):
        self.policy, self.config, self.generator = policy, config, generator
        options = config.damping, config.factor_decay, config.inverse_interval, config.eigenvalue_corrected
        self.shared = policy.spec.shared
        networks = {"both": policy} if self.shared else {"actor": policy.actor, "critic": policy.critic}
        self.recorders = {
            name: Recorder.over(network, keep_tokens=True, verify="first") for name, network in networks.items()
        }
        self.kfac = {name: KFAC(*options) for name in networks}
        for network in networks.values():
            # What an LSTM is fed by is differentiated through time with it, and no layer to `natgrad`.
            recurrent = {
                part for body in network.modules() if isinstance(body, RecurrentBody) for part in body.modules()
            }
            layers = {module for module in network.modules() if has_factor(module)} - recurrent
            for module in network.modules():
                for name, parameter in module._parameters.items():
                    if parameter is not None and parameter.numel() > LARGEST_BLOCK and module not in layers:
                        raise BadConfig(
                            f"acktr has no curvature for '{name}' of {type(module).__name__}, which has "
                            f"{parameter.numel()} entries (at most {LARGEST_BLOCK}): make the layer smaller, or choose "
                            "another algorithm"
                        )

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
        sizes, norms = [], []
        for _ in range(config.epochs):
            for minibatch in batch.minibatches(config.minibatches, self.generator):
                step = self._shared_step if self.shared else self._separate_step
                size, norm = step(minibatch, share)
                sizes.append(size)
                norms.append(norm)
        kl, entropy = kl_and_entropy(policy, batch)
        return {
            "kl": kl,
            "entropy": entropy,
            "learning_rate": float(torch.stack(sizes).mean()),
            "grad_norm": float(torch.stack(norms).mean()),
        }

    def _separate_step(self, batch: Batch, share: float) -> tuple[Tensor, Tensor]:
        with self.recorders["actor"].record():
            log_prob = self.policy.actor(batch.observations).log_prob(batch.actions)
        surrogate = (self._weighted_advantages(batch, log_prob.detach()) * log_prob).mean()
        size, norm = self._step("actor", log_prob, surrogate, share)
        with self.recorders["critic"].record():
            values = self.policy.critic(batch.observations)
        error = (self.policy.value_head.normalize(batch.returns) - values).square().mean()
        self._step("critic", values, -0.5 * error, share)
        return size, norm

    def _shared_step(self, batch: Batch, share: float) -> tuple[Tensor, Tensor]:
        with self.recorders["both"].record():
            noise = value_noise(batch, self.generator)
            score, log_prob, values = joint_score(self.policy, batch.observations, batch.actions, noise)
        surrogate = (self._weighted_advantages(batch, log_prob.detach()) * log_prob).mean()
        error = (self.policy.value_head.normalize(batch.returns) - values).square().mean()
        return self._step("both", score, surrogate - 0.5 * self.config.value_coefficient * error, share)

    def _weighted_advantages(self, batch: Batch, log_prob: Tensor) -> Tensor:
        advantages = batch.normalized_advantages
        advantages = advantages + self.config.entropy_coefficient * (log_prob.mean() - log_prob)
        return (log_prob - batch.log_prob).exp() * advantages

    def _step(self, name: str, score: Tensor, gain: Tensor, share: float) -> tuple[Tensor, Tensor]:
        """Moves a network along ``F̂⁻¹ ∇gain``; returns step size and the norm of that direction."""
        recorder, kfac = self.recorders[name], self.kfac[name]
        factors = recorder.factors(score)
        gradients = torch.autograd.grad(gain, list(recorder.parameters.values()))
        gradient = dict(zip(recorder.parameters, gradients, strict=True))
        with torch.no_grad():
            kfac.update(factors)
            direction = kfac.precondition(factors, gradient)
            # gᵀ(F̂ + λI)g, of which the gradient is one side already.
            curvature = torch.stack([(direction[name] * gradient[name]).sum() for name in gradient]).sum()
            size = (2 * share * self.config.kl_clip / curvature.clamp(min=1e-20)).sqrt()
            size = size.clamp(max=share * self.config.max_step_size)
            for parameter, g in direction.items():
                recorder.parameters[parameter].add_(g * size)
            return size, torch.stack([g.norm() for g in direction.values()]).norm()

    def state_dict(self) -> dict[str, Any]:
        return {name: kfac.state_dict() for name, kfac in self.kfac.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, kfac in self.kfac.items():
            kfac.load_state_dict(state[name], self.policy.device)
