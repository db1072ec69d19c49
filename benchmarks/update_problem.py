"""One mini-batch of a policy, and the ways to take a policy-gradient step on it."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from ratpg import AdvantageTransform
from ratpg.natgrad.fisher import conjugate_gradient, flatten, kl_fisher, unflatten
from ratpg.rl.policy import ActorCritic
from ratpg.rl.spec import PolicySpec

SHAPES = {"Hopper": (11, 3), "HalfCheetah": (17, 6), "Ant": (27, 8), "Humanoid": (376, 17)}
DAMPING = 0.1
CG_ITERATIONS = 10
PPO_CLIP = 0.2


class Problem:
    """A Gaussian policy with two hidden layers, and random data.

    Args:
        env: whose observation and action sizes to take.
        batch: ``B``.
        width: of the hidden layers.
    """

    def __init__(self, env: str, batch: int, width: int):
        torch.manual_seed(0)
        self.d_obs, self.d_action = SHAPES[env]
        self.batch, self.width = batch, width
        bounds = (-1.0,) * self.d_action, (1.0,) * self.d_action
        spec = PolicySpec((self.d_obs,), (self.d_action,), (), (), *bounds, hidden=(width, width))
        self.actor = ActorCritic(spec).actor
        self.parameters = dict(self.actor.named_parameters())
        self.observations = torch.randn(batch, self.d_obs)
        self.actions = torch.randn(batch, self.d_action)
        self.advantages = torch.randn(batch)
        self.weights = torch.rand(batch) + 0.5
        with torch.no_grad():
            self.old_log_prob = self._log_prob() - self.weights.log()
            self.old_distribution = self.actor(self.observations).detach()
        self.transform = AdvantageTransform(self.actor, DAMPING, verify="first")
        self.adam = torch.optim.Adam(self.actor.parameters(), lr=0.0, fused=True)  # times a step, stays in place

    def _log_prob(self) -> Tensor:
        return self.actor(self.observations).log_prob(self.actions)

    def rat(self) -> dict[str, Tensor]:
        """Factors, Gram matrix, Cholesky, one weighted product a layer."""
        with self.transform.record():
            log_prob = self._log_prob()
        return self.transform(log_prob, self.advantages, self.weights).direction

    def materialised(self) -> dict[str, Tensor]:
        """Per-sample gradients by vmap, ``H Hᵀ`` and LU, then backpropagation with the transformed advantage."""

        def log_prob_of(values: dict[str, Tensor], observation: Tensor, action: Tensor) -> Tensor:
            return functional_call(self.actor, values, (observation[None],)).log_prob(action[None]).squeeze(0)

        detached = {name: parameter.detach() for name, parameter in self.parameters.items()}
        rows = vmap(grad(log_prob_of), in_dims=(None, 0, 0))(detached, self.observations, self.actions)
        scores = torch.cat([row.flatten(1) for row in rows.values()], 1)
        system = scores @ scores.T * (self.weights / self.batch)
        system += DAMPING * torch.eye(self.batch)
        transformed = torch.linalg.solve(system, self.advantages)
        loss = (self.weights * transformed * self._log_prob()).mean()
        return dict(zip(self.parameters, torch.autograd.grad(loss, list(self.parameters.values())), strict=True))

    def ppo(self) -> None:
        """Clipped surrogate, backpropagation, gradient clipping, Adam."""
        ratio = (self._log_prob() - self.old_log_prob).exp()
        clipped = ratio.clamp(1 - PPO_CLIP, 1 + PPO_CLIP)
        loss = -torch.minimum(ratio * self.advantages, clipped * self.advantages).mean()
        self.adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.actor.parameters(), 0.5)
        self.adam.step()

    def cg(self) -> dict[str, Tensor]:
        """Conjugate gradients with ten products of the KL Fisher matrix, as TRPO takes them."""
        distribution = self.actor(self.observations)
        surrogate = (self.weights * self.advantages * distribution.log_prob(self.actions)).mean()
        parameters = list(self.parameters.values())
        gradient = flatten(torch.autograd.grad(surrogate, parameters, retain_graph=True))
        product = kl_fisher(self.old_distribution.kl(distribution).mean(), parameters, DAMPING)
        return unflatten(conjugate_gradient(product, gradient, CG_ITERATIONS).x, self.parameters)

    def flops(self, way: str) -> float:
        """Floating-point operations of the matrix products, counted by hand: 2 for each multiply-add."""
        b, sizes = self.batch, [self.d_obs, self.width, self.width, self.d_action]
        layers = list(pairwise(sizes))
        weights = sum(d_in * d_out for d_in, d_out in layers)
        forward = 2 * b * weights
        to_activations = 2 * b * sum(d_in * d_out for d_in, d_out in layers[1:])
        to_weights = 2 * b * weights
        backward = to_activations + to_weights
        if way == "ppo":
            return forward + backward
        if way == "cg":  # beside the surrogate's gradient that of the divergence; a product differentiates it: twice
            return forward + 2 * backward + 2 * CG_ITERATIONS * backward
        if way == "materialised":
            p = weights + sum(d_out for _, d_out in layers) + self.d_action
            return 2 * forward + 2 * backward + 2 * b * b * p + 2 * b**3 / 3
        # RAT: the Gram matrix from the diagonal down, Cholesky, one weighted product a layer.
        gram = b * b * sum(d_in + d_out for d_in, d_out in layers)
        return forward + to_activations + gram + b**3 / 3 + to_weights
