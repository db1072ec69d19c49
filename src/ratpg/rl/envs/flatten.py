"""Observations of several parts as one vector; also discrete ones, as one-hot vectors."""

from typing import Any

import gymnasium as gym
import numpy as np

from ratpg.rl.envs.vec_env import UnsupportedSpace


def flat_space(space: gym.Space) -> gym.spaces.Box:
    """The Box space that observations of this one are given as: itself where it is one.

    Raises:
        UnsupportedSpace: for parts without a fixed size, and images among others.
    """
    if isinstance(space, gym.spaces.Box):
        return space
    if _has_image(space):
        raise UnsupportedSpace(f"images are supported alone, not as a part of an observation; this one has {space}")
    flat = gym.spaces.flatten_space(space) if space.is_np_flattenable else None
    if not isinstance(flat, gym.spaces.Box):
        raise UnsupportedSpace(f"observations must be of a fixed size, this environment has {space}")
    return flat


def flat_rows(space: gym.Space, observations: Any) -> np.ndarray:
    """A batch of observations of the space, Box, Discrete or dicts of them -> ``[n, *shape]``, in the order of
    `flat_space`."""
    if isinstance(space, gym.spaces.Box):
        return np.asarray(observations)
    if isinstance(space, gym.spaces.Discrete):
        return np.eye(int(space.n), dtype=np.float32)[np.asarray(observations).reshape(-1) - space.start]
    if not isinstance(space, gym.spaces.Dict):
        raise UnsupportedSpace(
            f"observations of EnvPool must be Box, Discrete or dicts of them, this environment has {space}: try "
            "--backend gymnasium"
        )
    parts = [flat_rows(part, observations[name]) for name, part in space.items()]
    return np.concatenate([part.reshape(len(part), -1) for part in parts], 1)


def _has_image(space: gym.Space) -> bool:
    if isinstance(space, gym.spaces.Dict):
        return any(_has_image(part) for part in space.values())
    if isinstance(space, gym.spaces.Tuple):
        return any(_has_image(part) for part in space)
    return isinstance(space, gym.spaces.Box) and space.dtype == np.uint8 and len(space.shape) == 3
