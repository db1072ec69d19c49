"""How near an algorithm's step is to the exact damped natural gradient of the same mini-batch."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from ratpg.natgrad import AdvantageTransform
from ratpg.rl.batch import Batch
from ratpg.rl.policy import ActorCritic
from ratpg.rl.spec import Network

DAMPING = 0.1
"""λ of the natural gradient that is compared with."""
RATIO_BOUNDS = (0.1, 10.0)
LARGEST: dict[Network, int] = {"mlp": 4096, "nature-cnn": 128, "impala": 128}
"""Rows of a mini-batch that are looked at; of a larger one the first, which are random, and say less. An image is worth
many steps of a simulator."""
LARGEST_RECURRENT = 32
"""The same where there is an LSTM, through which each row takes a backward pass of its own."""


class AlignmentProbe:
    """Measures the cosine of one step a rollout with ``(λI + HᵀΣH)⁻¹ HᵀΣy``, λ = 0.1, over the actor's parameters.

    Args:
        policy: whose actor's steps are measured.

    Attributes:
        cosine: of the last step that was measured; None until there is one.
    """

    def __init__(self, policy: ActorCritic):
        self.policy = policy
        self.transform = AdvantageTransform(policy.actor, DAMPING, verify="first")
        self.cosine: float | None = None

    def watch(self, batch: Batch) -> Batch:
        """The batch for an update whose first step is to be measured."""
        self.cosine = None
        return replace(batch, probe=self)

    @contextmanager
    def watching(self, minibatch: Batch) -> Iterator[None]:
        """Measures by what the actor's parameters move meanwhile, so that no algorithm has to know of it."""
        if self.cosine is not None:
            yield
            return
        before = self.parameters()
        natural = self.natural_gradient(minibatch)
        yield
        step = self.parameters() - before
        cosine = step @ natural / (step.norm() * natural.norm()).clamp(min=1e-30)
        self.cosine = float(cosine.clamp(-1.0, 1.0))  # which rounding may have passed

    def parameters(self) -> Tensor:
        """The actor's, flat."""
        return torch.cat([parameter.detach().flatten() for parameter in self.transform.parameters.values()])

    def natural_gradient(self, batch: Batch) -> Tensor:
        """The exact damped natural gradient of a mini-batch, flat."""
        spec = self.policy.spec
        batch = batch.first(LARGEST_RECURRENT if spec.lstm else LARGEST[spec.network])
        with self.transform.record():
            log_prob = self.policy.actor(batch.observations).log_prob(batch.actions)
        ratio = (log_prob.detach() - batch.log_prob).exp().clamp(*RATIO_BOUNDS)
        advantages = batch.normalized_advantages
        direction = self.transform(log_prob, advantages, ratio).direction
        self.transform.release()
        return torch.cat([g.flatten() for g in direction.values()])
