"""EnvPool's compiled simulators (Weng et al. 2022, arXiv 2206.10558): fast, but their state cannot be saved."""

import gymnasium as gym
import numpy as np
import torch

from ratpg.rl.envs.vec_env import Backend, UnsupportedSpace, VecEnv

try:
    import envpool
except ImportError:  # no wheel for this platform; `make_vec` falls back to Gymnasium
    envpool = None


def known_ids() -> list[str]:
    """Every id EnvPool can make; empty where it is not installed."""
    return [] if envpool is None else envpool.list_all_envs()


class EnvPoolEnv(VecEnv):
    """A synchronous EnvPool, whose results do not depend on its number of threads."""

    backend: Backend = "envpool"

    def __init__(self, env_id: str, num_envs: int, seed: int, num_threads: int):
        options = {}
        if env_id in ("Humanoid-v4", "HumanoidStandup-v4"):
            options["post_constraint"] = True  # without it the contact forces in the observation are all zero
        self._pool = envpool.make_gymnasium(
            env_id, num_envs=num_envs, seed=seed, num_threads=min(num_threads, num_envs), **options
        )
        self.env_id, self.num_envs = env_id, num_envs
        self.observation_space = self._pool.observation_space
        self.action_space = self._pool.action_space
        if not isinstance(self.observation_space, gym.spaces.Box):
            raise UnsupportedSpace(f"observations must be a Box space, this environment has {self.observation_space}")
        observation, _ = self._pool.reset()
        self.observation = torch.from_numpy(observation).float()
        self.done = np.zeros(num_envs, dtype=bool)

    def _step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        observation, reward, terminated, truncated, _ = self._pool.step(
            actions.astype(self.action_space.dtype, copy=False)
        )
        return observation, reward, terminated, truncated

    def close(self) -> None:
        self._pool.close()
