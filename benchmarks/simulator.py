"""The bare simulator: EnvPool stepped with random actions, which no training can be faster than."""

from collections.abc import Callable

import envpool
import numpy as np

DISTINCT_STEPS = 40
"""Steps whose actions are drawn beforehand and then repeated, so that drawing them costs no time."""


def bare_simulator(env: str, num_envs: int, num_steps: int, threads: int) -> Callable[[], int]:
    """A rollout's worth of steps at each call, which returns their number."""
    options = {"post_constraint": True} if env.startswith("Humanoid") else {}
    pool = envpool.make_gymnasium(env, num_envs=num_envs, num_threads=threads, seed=0, **options)
    pool.reset()
    space = pool.action_space
    rng = np.random.default_rng(0)
    actions = rng.uniform(space.low, space.high, (DISTINCT_STEPS, num_envs, *space.shape))

    def roll() -> int:
        for step in range(num_steps):
            pool.step(actions[step % DISTINCT_STEPS])
        return num_envs * num_steps

    return roll
