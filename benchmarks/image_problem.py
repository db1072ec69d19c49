"""One mini-batch of images with the IMPALA network, and the ways to take a policy-gradient step on it."""

import torch
from torch import Tensor, nn
from torch.distributions import Categorical
from torch.func import functional_call, grad, vmap

from ratpg import AdvantageTransform
from ratpg.rl.networks.impala import IMPALA
from update_problem import DAMPING, PPO_CLIP

SHAPE, ACTIONS = (3, 64, 64), 15
SCORES_CHUNK = 16
"""Samples whose gradients are formed at once in the materialised way."""


class ImageProblem:
    """A categorical policy on IMPALA's features, and random images; sizes are those of Procgen.

    Args:
        batch: ``B``.
    """

    def __init__(self, batch: int):
        torch.manual_seed(0)
        self.batch = batch
        self.actor = nn.Sequential(IMPALA(SHAPE), nn.Linear(256, ACTIONS))
        self.parameters = dict(self.actor.named_parameters())
        self.observations = torch.rand(batch, *SHAPE)
        self.actions = torch.randint(ACTIONS, (batch,))
        self.advantages = torch.randn(batch)
        self.weights = torch.rand(batch) + 0.5
        self.old_log_prob = torch.full((batch,), 1 / ACTIONS).log()
        self.transform = AdvantageTransform(self.actor, DAMPING, verify="first")
        self.adam = torch.optim.Adam(self.actor.parameters(), lr=0.0, fused=True)  # times a step, stays in place

    def _log_prob(self) -> Tensor:
        return Categorical(logits=self.actor(self.observations), validate_args=False).log_prob(self.actions)

    def rat(self) -> dict[str, Tensor]:
        """Each layer's factor in turn added to the Gram matrix, Cholesky, and a second backward pass."""
        with self.transform.record():
            log_prob = self._log_prob()
        return self.transform(log_prob, self.advantages, self.weights).direction

    def ppo(self) -> None:
        """Clipped surrogate, backpropagation, gradient clipping, Adam."""
        ratio = (self._log_prob() - self.old_log_prob).exp()
        clipped = ratio.clamp(1 - PPO_CLIP, 1 + PPO_CLIP)
        loss = -torch.minimum(ratio * self.advantages, clipped * self.advantages).mean()
        self.adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.actor.parameters(), 0.5)
        self.adam.step()

    def materialised(self) -> Tensor:
        """``H`` by vmap, some samples at a time so that little is held beside it, and the step from ``H Hᵀ`` by LU."""

        def log_prob_of(values: dict[str, Tensor], image: Tensor, action: Tensor) -> Tensor:
            logits = functional_call(self.actor, values, (image[None],))
            return logits.log_softmax(1)[0].gather(0, action[None]).squeeze(0)

        detached = {name: parameter.detach() for name, parameter in self.parameters.items()}
        scores = torch.empty(self.batch, sum(parameter.numel() for parameter in detached.values()))
        for start in range(0, self.batch, SCORES_CHUNK):
            chunk = slice(start, start + SCORES_CHUNK)
            each = vmap(grad(log_prob_of), in_dims=(None, 0, 0))
            rows = each(detached, self.observations[chunk], self.actions[chunk])
            torch.cat([row.flatten(1) for row in rows.values()], 1, out=scores[chunk])
        system = scores @ scores.T * (self.weights / self.batch)
        system += DAMPING * torch.eye(self.batch)
        return (self.weights * torch.linalg.solve(system, self.advantages)) @ scores / self.batch
