"""Collects experience from a vector environment with a policy."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ratpg.rl.acting import make_actor
from ratpg.rl.envs import VecEnv
from ratpg.rl.memory import Memory
from ratpg.rl.policy import ActorCritic


class NonFiniteExperience(ValueError):
    """The simulator returned a reward or an observation that is NaN or infinite."""


@dataclass(frozen=True)
class Rollout:
    """``T`` steps of ``N`` environments.

    Attributes:
        observations: raw, in the type `PolicySpec.kept_as`, ``[T + 1, N, *shape]``; row ``t + 1`` is what
            step ``t`` led to, the true final observation where the step ended an episode.
        actions: as sampled, before any clipping or squashing, ``[T, N]`` or ``[T, N, A]``.
        rewards: raw, ``[T, N]``.
        terminated: the episode reached a terminal state, bool ``[T, N]``.
        truncated: the episode was cut off by a time limit, bool ``[T, N]``.
        valid: False where the step only reset the environment, bool ``[T, N]``.
        cut: truncated by `VecEnv.stagger`, so that the episode's return is none of the task's, bool ``[T, N]``.
        state: of a recurrent actor before the first step, ``[N, size]``.
        features: what shared layers made of the observations that were acted on, ``[T, N, width]``, where
            `ActorCritic.empty_features` has room for them.
    """

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    terminated: Tensor
    truncated: Tensor
    valid: Tensor
    cut: Tensor
    state: Tensor | None = None
    features: Tensor | None = None

    @property
    def done(self) -> Tensor:
        return self.terminated | self.truncated


def collect(
    policy: ActorCritic, envs: VecEnv, num_steps: int, generator: torch.Generator, memory: Memory | None = None
) -> Rollout:
    """Steps every environment ``num_steps`` times with actions sampled from the policy.

    Values and log-probabilities are not computed here: one batched pass afterwards costs less than one a step. The
    environments are stepped outside of PyTorch's inference mode, so that a simulator may use autograd itself.

    Args:
        policy: the policy.
        envs: the environments.
        num_steps: ``T``.
        generator: source of the actions' noise.
        memory: of the environments, where the policy is recurrent; the actor's is moved on.

    Raises:
        NonFiniteExperience: naming the environment and the step.
    """
    num_envs, device, kind = envs.num_envs, policy.device, policy.spec.kept_as
    observations = np.empty((num_steps + 1, num_envs, *policy.spec.observation_shape), dtype=kind)
    rewards = np.empty((num_steps, num_envs), dtype=np.float32)
    terminated, truncated, valid, cut = (np.empty((num_steps, num_envs), dtype=bool) for _ in range(4))
    noise = policy.draw_noise((num_steps, num_envs), generator)
    actions = policy.empty_actions((num_steps, num_envs))
    features = policy.empty_features((num_steps, num_envs))
    act = make_actor(policy, noise, actions, memory, features)
    state = None if memory is None else memory.actor.clone()
    for step in range(num_steps + 1):
        for group, where in enumerate(envs.groups):
            if step > 0:
                past = step - 1
                rewards[past, where], terminated[past, where], truncated[past, where] = envs.receive(group)
                cut[past, where] = envs.cuts[group]
                if memory is not None:  # a step that only reset has brought the first observation of an episode
                    memory.actor[where].masked_fill_(torch.from_numpy(~valid[past, where, None]).to(device), 0.0)
            seen = envs.observations[group].astype(kind, copy=False)
            if step < num_steps:
                envs.send(group, act(step, where, seen))
                # What the next step does not wait for is stored while it is simulated.
                valid[step, where] = ~envs.dones[group]
            observations[step, where] = seen
    _require_finite(observations, rewards)
    return Rollout(
        observations=torch.from_numpy(observations).to(device),
        actions=actions,
        rewards=torch.from_numpy(rewards).to(device),
        terminated=torch.from_numpy(terminated).to(device),
        truncated=torch.from_numpy(truncated).to(device),
        valid=torch.from_numpy(valid).to(device),
        cut=torch.from_numpy(cut).to(device),
        state=state,
        features=features,
    )


def _require_finite(observations: np.ndarray, rewards: np.ndarray) -> None:
    if observations.dtype == np.uint8:
        observations = observations[:0]
    finite = np.isfinite(observations).all(axis=tuple(range(2, observations.ndim)))
    if not finite.all():
        row, index = np.argwhere(~finite)[0]  # row t + 1 is what step t led to
        raise NonFiniteExperience(
            f"environment {index} returned a non-finite observation at step {max(row - 1, 0)} of a rollout"
        )
    if not np.isfinite(rewards).all():
        step, index = np.argwhere(~np.isfinite(rewards))[0]
        raise NonFiniteExperience(f"environment {index} returned a non-finite reward at step {step} of a rollout")
