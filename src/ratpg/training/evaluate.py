"""Deterministic evaluation of a policy."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ratpg.rl.envs import Backend, make_vec
from ratpg.rl.policy import ActorCritic


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
) -> Evaluation:
    """Runs one episode in each of ``episodes`` environments, acting by the distribution's mode.

    One episode an environment: taking the first to finish from fewer environments would favour short episodes.
    """
    torch.set_num_threads(1)
    envs = make_vec(env_id, episodes, seed=seed, backend=backend, num_threads=threads, options=options)
    returns, running = np.zeros(episodes), np.ones(episodes, dtype=bool)
    memory = policy.new_memory(episodes)
    while running.any():
        reward, _, _ = envs.step(policy.act(envs.observation, memory))
        returns += np.where(running, reward, 0.0)
        running &= ~envs.done
    envs.close()
    return Evaluation(float(returns.mean()), float(returns.std()), returns.tolist())
