"""Acting on a few observations at a time, as a rollout does at every step: tiny work, so the fewest calls win.

`make_actor` gives the function that a rollout calls. For a plain multi-layer perceptron it is a chain of NumPy calls
and matrix products into memory that is allocated once; any other policy's own methods are called as they are. Both
give the same actions, up to rounding.
"""

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ratpg.natgrad.products import Activation
from ratpg.rl.memory import Memory
from ratpg.rl.networks.perceptron import PerceptronLayer
from ratpg.rl.policy import ActorCritic, GaussianActor

IN_PLACE: dict[Activation, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "relu": torch.relu_,
    "tanh": torch.tanh_,
}


class Actor(Protocol):
    """Samples actions for some environments at one step of a rollout."""

    def __call__(self, step: int, where: slice, observations: np.ndarray) -> np.ndarray:
        """Observations ``[n, *shape]`` of the environments ``where`` -> what the simulator takes, ``[n, ...]``.

        The observations are raw, as the rollout keeps them, so that learning sees what acting saw.

        The sampled actions, before any clipping or squashing, are left in ``actions[step, where]``.
        """
        ...


def make_actor(
    policy: ActorCritic, noise: Tensor, actions: Tensor, memory: Memory | None = None, features: Tensor | None = None
) -> Actor:
    """An actor for one rollout, under the policy's parameters as they are now.

    Args:
        policy: the policy.
        noise: `ActorCritic.draw_noise` of ``[T, N]``.
        actions: `ActorCritic.empty_actions` of ``[T, N]``, to be filled.
        memory: of the ``N`` environments, where the policy is recurrent; moved on by each call.
        features: `ActorCritic.empty_features` of ``[T, N]``, to be filled.
    """
    layers = policy.actor_layers()
    if layers is not None and policy.device.type == "cpu":
        return _PerceptronActor(policy, layers, noise, actions)
    return _ModuleActor(policy, noise, actions, memory, features)


class _ModuleActor:
    def __init__(
        self,
        policy: ActorCritic,
        noise: Tensor,
        actions: Tensor,
        memory: Memory | None = None,
        features: Tensor | None = None,
    ):
        self._policy, self._noise, self._actions, self._memory = policy, noise, actions, memory
        self._features = features

    @torch.inference_mode()
    def __call__(self, step: int, where: slice, observations: np.ndarray) -> np.ndarray:
        policy = self._policy
        normalized = policy.normalize(torch.from_numpy(observations).to(policy.device))
        if self._features is None:
            distribution = policy.act_on(normalized, self._memory, where)
        else:
            features = policy.actor.body(normalized)
            self._features[step, where] = features
            distribution = policy.actor.distribution(policy.actor.head(features))
        sampled = distribution.sample(self._noise[step, where])
        self._actions[step, where] = sampled
        return policy.environment_actions(sampled)


class _PerceptronActor:
    """A plain multi-layer perceptron: observations are normalised in NumPy, and noise enters as the head's bias.

    A Gaussian sample is ``W h + (b + σ ε)``; a discrete one the mode of the logits ``W h + (b + ε)``, ``ε`` being the
    noise of its distribution.
    """

    @torch.no_grad()
    def __init__(self, policy: ActorCritic, layers: list[PerceptronLayer], noise: Tensor, actions: Tensor):
        self._policy, self._actions = policy, actions.unbind()  # of each step: [N, A]
        normalizer, actor = policy.normalizer, policy.actor
        assert normalizer is not None  # a perceptron has one
        self._shift, self._scale, self._limit = normalizer.shift.numpy(), normalizer.scale.numpy(), normalizer.limit
        self._std = actor.log_std.value.exp() if isinstance(actor, GaussianActor) else None
        offsets = (noise if self._std is None else noise * self._std) + actor.head.bias  # [T, N, A]
        self._offsets = offsets.unbind()
        self._layers = [
            (
                None if layer.linear.bias is None else layer.linear.bias.detach(),
                layer.linear.weight.detach().T.contiguous(),
                IN_PLACE[layer.activation],
            )
            for layer in layers
        ]
        self._buffers: dict[int, tuple[np.ndarray, Tensor, np.ndarray, list[Tensor]]] = {}

    def __call__(self, step: int, where: slice, observations: np.ndarray) -> np.ndarray:
        count = len(observations)
        if count not in self._buffers:
            widths = [self._shift.shape[0], *(weight.shape[1] for _, weight, _ in self._layers)]
            x, *outputs = (torch.empty(count, width) for width in widths)
            self._buffers[count] = np.empty((count, widths[0])), x, x.numpy(), outputs
        rows, x, single, outputs = self._buffers[count]

        # The operations of `ObservationNormalizer`, in its order and in double precision.
        np.subtract(observations.reshape(count, -1), self._shift, out=rows)
        np.multiply(rows, self._scale, out=rows)
        np.maximum(rows, -self._limit, out=rows)  # np.clip takes longer to begin than to clip
        np.minimum(rows, self._limit, out=single, casting="same_kind")

        *hidden, (_, head, _) = self._layers
        for (bias, weight, activate), out in zip(hidden, outputs, strict=False):
            torch.mm(x, weight, out=out) if bias is None else torch.addmm(bias, x, weight, out=out)
            x = activate(out)
        offsets, actions = self._offsets[step][where], self._actions[step][where]
        if self._std is None:
            actions[...] = self._policy.actor.distribution(torch.addmm(offsets, x, head)).mode()
        else:
            torch.addmm(offsets, x, head, out=actions)
        return self._policy.environment_actions(actions)
