"""Gymnasium's own simulators: the reference, for any registered id, with states that can be saved and restored."""

import traceback
from collections.abc import Mapping
from fractions import Fraction
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from ratpg.rl.envs.env_state import restore, snapshot
from ratpg.rl.envs.flatten import flat_space
from ratpg.rl.envs.vec_env import Backend, CannotDraw, VecEnv

OPENGL = "MuJoCo draws with OpenGL: sudo apt-get install libegl1 libgl1"


def known_ids() -> list[str]:
    """Every id registered with Gymnasium."""
    return list(gym.registry)


def _make(env_id: str, options: Mapping[str, Any]) -> gym.Env:
    env = gym.make(env_id, disable_env_checker=True, **options)
    if flat_space(env.observation_space) is env.observation_space:
        return env
    return gym.wrappers.FlattenObservation(env)


def is_known(env_id: str) -> bool:
    """Whether the id is registered; that of ``"module:Name-v0"`` is once the module has been imported."""
    try:
        gym.spec(env_id.rpartition(":")[2])
    except gym.error.Error:
        return False
    return True


def is_mujoco(env_id: str) -> bool:
    """Whether it is one of Gymnasium's own environments on MuJoCo."""
    return env_id in gym.registry and str(gym.registry[env_id].entry_point).startswith("gymnasium.envs.mujoco")


def drawing_options(env_id: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """An environment's options, and those with which it is drawn: MuJoCo's robots by the camera that follows them."""
    drawn = {**options, "render_mode": "rgb_array"}
    if is_mujoco(env_id) and "camera_id" not in options:
        drawn.setdefault("camera_name", "track")
    return drawn


class GymnasiumEnv(VecEnv):
    """Copies stepped one after another, so that a run is reproducible to the bit."""

    backend: Backend = "gymnasium"

    def __init__(self, env_id: str, num_envs: int, seed: int, options: Mapping[str, Any]):
        self._venv = gym.vector.SyncVectorEnv(
            [partial(_make, env_id, options)] * num_envs,
            autoreset_mode=gym.vector.AutoresetMode.NEXT_STEP,
        )
        self.num_envs = num_envs
        self.observation_space = self._venv.single_observation_space
        self.action_space = self._venv.single_action_space
        observation, _ = self._venv.reset(seed=seed)
        spec = self._venv.envs[0].spec
        self._start((slice(0, num_envs),), [np.asarray(observation)], spec and spec.max_episode_steps)

    def send(self, group: int, actions: np.ndarray) -> None:
        self._actions = actions.astype(self.action_space.dtype, copy=False)

    def _receive(self, group: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        observation, reward, terminated, truncated, _ = self._venv.step(self._actions)
        return observation, reward, terminated, truncated

    def _restart(self, group: int, which: np.ndarray) -> None:
        self._venv._autoreset_envs |= which

    @property
    def frames_per_second(self) -> Fraction:
        return Fraction(self._venv.envs[0].metadata.get("render_fps") or 30).limit_denominator(1000)

    def render(self) -> np.ndarray:
        """As the environment draws it, if it was made with `drawing_options`."""
        env = self._venv.envs[0]
        try:
            picture = env.render()
        except Exception as error:  # whatever the libraries that draw raise
            traceback.clear_frames(error.__traceback__)  # a viewer that was half made complains as it is deleted: now
            hint = f" ({OPENGL})" if hasattr(env.unwrapped, "mujoco_renderer") else ""
            reason = str(error) or type(error).__name__
            raise CannotDraw(f"the environment cannot be drawn on this machine: {reason}{hint}") from error
        if not (isinstance(picture, np.ndarray) and picture.dtype == np.uint8 and picture.shape[2:] == (3,)):
            raise CannotDraw("the environment has no pictures: what it renders is no array of bytes [height, width, 3]")
        return picture

    def close(self) -> None:
        try:
            self._venv.close()
        finally:
            self._venv.closed = (
                True  # also where an environment's own failed, which is not tried again when it is deleted
            )

    def state_dict(self) -> dict[str, Any] | None:
        states = [snapshot(env) for env in self._venv.envs]
        if any(state is None for state in states):
            return None
        return {
            "envs": states,
            "observation": torch.from_numpy(self.observations[0]),
            "done": torch.from_numpy(self.dones[0]),
            "stagger": [stagger.state_dict() for stagger in self._staggers],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for env, saved in zip(self._venv.envs, state["envs"], strict=True):
            restore(env, saved)
        self.observations = [state["observation"].numpy().copy()]
        self.dones = [state["done"].numpy().copy()]
        self._venv._autoreset_envs = self.done.copy()
        # Whatever is asked for now: environments that were not staggered are in the middle of their episodes.
        self._staggers = self._staggers if state["stagger"] else []
        for stagger, saved in zip(self._staggers, state["stagger"], strict=False):
            stagger.load_state_dict(saved)
