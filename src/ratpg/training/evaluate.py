"""Deterministic evaluation of a policy."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

import numpy as np

from ratpg.rl.envs import Backend, VecEnv, make_vec
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
    backend: Backend = "auto",
    threads: int = 1,
    options: Mapping[str, Any] | None = None,
    watch: Callable[[VecEnv], None] = lambda envs: None,
) -> Evaluation:
    """Runs one episode in each of ``episodes`` environments, acting by the distribution's mode.

    One episode an environment: taking the first to finish from fewer environments would favour short episodes.
    ``watch`` is called with the environments at their start and after each step.

    Raises:
        ValueError: for an environment with other observations or actions than the policy's, for episodes without an
            end, and for rewards that are not finite.
    """
    with ExitStack() as stack:
        stack.enter_context(GlobalGenerators(seed).in_use())
        envs = make_vec(env_id, episodes, seed=seed, backend=backend, num_threads=threads, options=options)
        stack.enter_context(closing(envs))
        found = PolicySpec.from_spaces(envs.observation_space, envs.action_space).differences(policy.spec)
        for name in OF_SPACES:
            if name in found:
                raise ValueError(
                    f"the policy was trained with {name} {getattr(policy.spec, name)}, and {env_id} with these options "
                    f"has {found[name]}"
                )
        returns, running = np.zeros(episodes), np.ones(episodes, dtype=bool)
        memory = policy.new_memory(episodes)
        watch(envs)
        for _ in range(LONGEST):
            reward, _, _ = envs.step(policy.act(envs.observation, memory))
            watch(envs)
            returns += np.where(running, reward, 0.0)
            running &= ~envs.done
            if not running.any():
                break
        else:
            raise ValueError(
                f"{running.sum()} of {episodes} episodes of {env_id} have not ended after {LONGEST} steps: give it a "
                "time limit, as in --env-options max_episode_steps=1000"
            )
    if not np.isfinite(returns).all():
        raise ValueError(f"{env_id} paid rewards that are not finite: returns are {returns.tolist()}")
    return Evaluation(float(returns.mean()), float(returns.std()), returns.tolist())
