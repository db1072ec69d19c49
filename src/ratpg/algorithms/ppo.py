"""PPO: the clipped surrogate (Schulman et al. 2017, arXiv 1707.06347)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ratpg.algorithms.checks import require
from ratpg.algorithms.divergence import kl_and_entropy
from ratpg.algorithms.restoring import restore
from ratpg.rl.batch import Batch
from ratpg.rl.distributions import Distribution
from ratpg.rl.networks.perceptron import PerceptronLayer, backpropagate, forward
from ratpg.rl.policy import ActorCritic

Perceptrons = tuple[list[PerceptronLayer], list[PerceptronLayer]]


@dataclass(frozen=True)
class PPOConfig:
    """Hyperparameters of PPO."""

    learning_rate: float = 3e-4
    """Adam's learning rate."""
    anneal_learning_rate: bool = True
    """Let the learning rate fall linearly to 0 over the run."""
    clip_range: float = 0.2
    """Importance ratios beyond 1 ± this earn nothing more."""
    value_clip_range: float | None = None
    """Bound on how far values move from those of the rollout, in normalised units; None for no bound."""
    entropy_coefficient: float = 0.0
    """Weight of the entropy bonus."""
    value_coefficient: float = 0.5
    """Weight of the value loss."""
    epochs: int = 10
    """Passes over each rollout."""
    minibatches: int = 8
    """Mini-batches in each of these passes."""
    max_grad_norm: float = 0.5
    """Bound on the norm of the gradient."""
    target_kl: float | None = None
    """Stop the passes once the KL divergence from the behaviour policy exceeds this; None to never stop."""

    def __post_init__(self) -> None:
        for name in ("learning_rate", "clip_range", "value_clip_range", "max_grad_norm", "target_kl"):
            require(name, getattr(self, name), above=0)
        for name in ("entropy_coefficient", "value_coefficient"):
            require(name, getattr(self, name), at_least=0)
        for name in ("epochs", "minibatches"):
            require(name, getattr(self, name), at_least=1)


class PPO:
    """Updates a policy from rollouts.

    Per mini-batch one step of Adam on ``−mean(min(r y, clip(r, 1 ± ε) y)) − c H + v (V − R)²/2`` with importance ratio
    ``r``, normalised advantage ``y``, entropy ``H``, and the value error in PopArt's units.

    Args:
        policy: the policy to improve, in place.
        config: hyperparameters.
        generator: source of the mini-batches' order.
    """

    measures = False
    critic = None

    def __init__(self, policy: ActorCritic, config: PPOConfig, generator: torch.Generator):
        self.policy, self.config, self.generator = policy, config, generator
        self.parameters = list(policy.parameters())
        self.optimizer = torch.optim.Adam(self.parameters, lr=config.learning_rate, eps=1e-5, fused=True)

    def update(self, batch: Batch, remaining: float = 1.0) -> dict[str, float]:
        """One rollout's worth of improvement.

        Args:
            batch: the rollout.
            remaining: share of the run that is still to come, from 1 to 0.

        Returns:
            What happened, for the log.
        """
        config, policy = self.config, self.policy
        learning_rate = config.learning_rate * (remaining if config.anneal_learning_rate else 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        policy.value_head.update(batch.returns)
        perceptrons = self._perceptrons()
        norms, clipped = [], []
        for _ in range(config.epochs):
            for minibatch in batch.minibatches(config.minibatches, self.generator):
                norm, clip_fraction = self._step(minibatch, perceptrons)
                norms.append(norm)
                clipped.append(clip_fraction)
            if config.target_kl is not None and kl_and_entropy(policy, batch)[0] > config.target_kl:
                break
        kl, entropy = kl_and_entropy(policy, batch)
        return {
            "kl": kl,
            "entropy": entropy,
            "learning_rate": learning_rate,
            "grad_norm": float(torch.stack(norms).mean()),
            "clip_fraction": float(torch.stack(clipped).mean()),
        }

    def _perceptrons(self) -> Perceptrons | None:
        """The layers of actor and critic, where they are separate plain perceptrons."""
        actor, critic = self.policy.actor_layers(), self.policy.critic_layers()
        return None if self.policy.spec.shared or actor is None or critic is None else (actor, critic)

    def _step(self, batch: Batch, perceptrons: Perceptrons | None) -> tuple[Tensor, Tensor]:
        """One step on a mini-batch; backpropagation through separate perceptrons is written out."""
        self.optimizer.zero_grad()
        if perceptrons is None or not isinstance(batch.observations, Tensor):
            loss, ratio = self._loss(batch, *self.policy.actor_critic(batch.observations))
            loss.backward()
        else:
            passes = [forward(layers, batch.observations) for layers in perceptrons]
            head, values = (outputs[-1].requires_grad_() for outputs in passes)
            loss, ratio = self._loss(batch, self.policy.actor.distribution(head), values.squeeze(1))
            loss.backward()
            for layers, outputs in zip(perceptrons, passes, strict=True):
                assert outputs[-1].grad is not None
                backpropagate(layers, outputs, outputs[-1].grad)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm)
        self.optimizer.step()
        clip_fraction = ((ratio.detach() - 1).abs() > self.config.clip_range).float().mean()
        return norm, clip_fraction

    def _loss(self, batch: Batch, distribution: Distribution, values: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, and the importance ratios ``[B]``."""
        config, policy = self.config, self.policy
        advantages = batch.normalized_advantages
        ratio = (distribution.log_prob(batch.actions) - batch.log_prob).exp()
        bounded = ratio.clamp(1 - config.clip_range, 1 + config.clip_range)
        policy_loss = -torch.minimum(ratio * advantages, bounded * advantages).mean()

        returns = policy.value_head.normalize(batch.returns)
        error = (values - returns).square()
        if config.value_clip_range is not None:
            before = policy.value_head.normalize(batch.returns - batch.advantages)
            near = before + (values - before).clamp(-config.value_clip_range, config.value_clip_range)
            error = torch.maximum(error, (near - returns).square())

        loss = policy_loss + 0.5 * config.value_coefficient * error.mean()
        if config.entropy_coefficient:
            loss = loss - config.entropy_coefficient * distribution.entropy().mean()
        return loss, ratio

    def state_dict(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        restore(self.optimizer, state["optimizer"])
