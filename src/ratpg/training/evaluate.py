"""Deterministic evaluation of a policy."""

import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ratpg.algorithms.checks import require
from ratpg.rl.envs import Backend, VecEnv, make_vec
from ratpg.rl.envs.faults import closing_whatever
from ratpg.rl.policy import ActorCritic
from ratpg.rl.spec import OF_SPACES, PolicySpec
from ratpg.training.global_generators import GlobalGenerators

LONGEST = 100_000
"""Steps after which an episode counts as one without an end; Atari's longest take 27,000."""


@dataclass(frozen=True)
class Evaluation:
    """Undiscounted returns of whole episodes."""

    mean: float
    std: float
    returns: list[float]


def evaluate(
    policy: ActorCritic,
    env_id: str,
    *,
    episodes: int,
    seed: int,
    num_envs: int | None = None,
    backend: Backend = "auto",
    threads: int = 1,
    options: Mapping[str, Any] | None = None,
    watch: Callable[[VecEnv], None] = lambda envs: None,
    warn: Callable[[str], None] = warnings.warn,
) -> Evaluation:
    """Runs whole episodes, acting by the distribution's mode.

    Each environment plays a share that is fixed before: taking the first to finish would favour short episodes.
    Environments are seeded once, so that returns depend on how many there are.

    Args:
        policy: the policy.
        env_id, backend, threads, options: of the environment, as for `make_vec`.
        episodes: how many.
        seed: of the environments.
        num_envs: copies of the environment; as many as episodes unless given.
        watch: called with the environments at their start and after each step.
        warn: called with a line where the environments cannot be closed.

    Raises:
        EnvironmentFailed: for whatever an environment raises.
        ValueError: for an environment with other observations or actions than the policy's, for episodes without an
            end, and for rewards that are not finite.
    """
    require("num_envs", num_envs, at_least=1)
    count = min(num_envs or episodes, episodes)
    with ExitStack() as stack:
        stack.enter_context(GlobalGenerators(seed).in_use())
        envs = make_vec(env_id, count, seed=seed, backend=backend, num_threads=threads, options=options)
        stack.enter_context(closing_whatever(envs, warn))
        found = PolicySpec.from_spaces(envs.observation_space, envs.action_space).differences(policy.spec)
        for name in OF_SPACES:
            if name in found:
                raise ValueError(
                    f"the policy was trained with {name} {getattr(policy.spec, name)}, and {env_id} with these options "
                    f"has {found[name]}"
                )
        watch(envs)
        returns = _returns(policy, envs, env_id, episodes, watch)
    if not np.isfinite(returns).all():
        raise ValueError(f"{env_id} paid rewards that are not finite: returns are {returns.tolist()}")
    return Evaluation(float(returns.mean()), float(returns.std()), returns.tolist())


def _returns(
    policy: ActorCritic, envs: VecEnv, env_id: str, episodes: int, watch: Callable[[VecEnv], None]
) -> np.ndarray:
    """Of so many episodes, in the order of the environments' first ones, then of their second ones, and so on."""
    count = envs.num_envs
    returns, steps = np.zeros(episodes), np.zeros(count, dtype=np.int64)
    playing = np.arange(count)  # the episode that each environment plays
    memory = policy.new_memory(count)
    while (running := playing < episodes).any():
        if (endless := running & (steps >= LONGEST)).any():
            raise ValueError(
                f"{endless.sum()} of {episodes} episodes of {env_id} have not ended after {LONGEST} steps: give it a "
                "time limit, as in --env-options max_episode_steps=1000"
            )
        resets = envs.done  # this step of theirs brings the first observation of an episode
        reward, _, _ = envs.step(policy.act(envs.observation, memory))
        if memory is not None:
            memory.actor[torch.from_numpy(resets)] = 0.0
        watch(envs)
        returns[playing[running]] += reward[running]
        steps = np.where(resets, 0, steps + 1)
        playing = np.where(envs.done, playing + count, playing)
    return returns
