"""Gymnasium's own simulators: the reference, for any registered id, with states that can be saved and restored."""

import contextlib
import math
import traceback
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from ratpg.rl.envs.env_state import restore, snapshot
from ratpg.rl.envs.flatten import flat_space
from ratpg.rl.envs.vec_env import Backend, BadStep, CannotDraw, UnsupportedSpace, VecEnv

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
        self.num_envs = num_envs
        self._envs = [_make(env_id, options) for _ in range(num_envs)]
        first = self._envs[0]
        self.observation_space, self.action_space = first.observation_space, first.action_space
        for index, env in enumerate(self._envs):
            for what in ("observation_space", "action_space"):
                if getattr(env, what) != getattr(first, what):
                    raise UnsupportedSpace(
                        f"all copies of {env_id} must have one {what}: the first has {getattr(first, what)}, copy "
                        f"{index} has {getattr(env, what)}"
                    )
        observations = [env.reset(seed=seed + index)[0] for index, env in enumerate(self._envs)]
        self._start((slice(0, num_envs),), [self._together(observations)], first.spec and first.spec.max_episode_steps)

    def send(self, group: int, actions: np.ndarray) -> None:
        self._actions = actions.astype(self.action_space.dtype)  # a copy, which an environment may write into

    def _receive(self, group: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        rewards, (terminated, truncated) = np.zeros(self.num_envs), np.zeros((2, self.num_envs), dtype=bool)
        observations = []
        for index, (env, done) in enumerate(zip(self._envs, self.dones[group], strict=True)):
            if done:
                observation, _ = env.reset()
            else:
                observation, reward, ended, cut, _ = env.step(self._actions[index])
                rewards[index] = reward if isinstance(reward, float | int | np.floating) else _number("reward", reward)
                terminated[index] = ended if isinstance(ended, bool | np.bool_) else _number("terminated flag", ended)
                truncated[index] = cut if isinstance(cut, bool | np.bool_) else _number("truncated flag", cut)
            observations.append(observation)
        return self._together(observations), rewards, terminated, truncated

    def _restart(self, group: int, which: np.ndarray) -> None:
        """Nothing: the next step resets what `dones` says has ended."""

    def _together(self, observations: Sequence[Any]) -> np.ndarray:
        """The copies' observations as one array, ``[N, *shape]``."""
        space = self.observation_space
        together = np.empty((self.num_envs, *space.shape), space.dtype)
        try:
            return np.stack(observations, out=together)
        except (TypeError, ValueError) as error:
            raise BadStep(f"an environment's observation is not of its space {space}: {error}") from error

    @property
    def frames_per_second(self) -> Fraction:
        with contextlib.suppress(TypeError, ValueError):  # of what is no number
            rate = float(self._envs[0].metadata.get("render_fps") or 30)
            if math.isfinite(rate) and rate > 0:
                return Fraction(rate).limit_denominator(1000)
        return Fraction(30)

    def render(self) -> np.ndarray:
        """As the environment draws it, if it was made with `drawing_options`."""
        env = self._envs[0]
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
        with contextlib.ExitStack() as stack:  # all of them, also where one fails
            for env in self._envs:
                stack.callback(env.close)

    def state_dict(self) -> dict[str, Any] | None:
        states = [snapshot(env) for env in self._envs]
        if any(state is None for state in states):
            return None
        return {
            "envs": states,
            "observation": torch.from_numpy(self.observations[0]),
            "done": torch.from_numpy(self.dones[0]),
            "stagger": [stagger.state_dict() for stagger in self._staggers],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for env, saved in zip(self._envs, state["envs"], strict=True):
            restore(env, saved)
        self.observations = [state["observation"].numpy().copy()]
        self.dones = [state["done"].numpy().copy()]
        # Whatever is asked for now: environments that were not staggered are in the middle of their episodes.
        self._staggers = self._staggers if state["stagger"] else []
        for stagger, saved in zip(self._staggers, state["stagger"], strict=False):
            stagger.load_state_dict(saved)


def _number(what: str, value: Any) -> float:
    """What an environment gave for one number, such as an array of shape (1,).

    Raises:
        BadStep: where it is none.
    """
    array = np.asarray(value.detach().cpu() if isinstance(value, torch.Tensor) else value)
    if array.size != 1 or array.dtype.kind not in "fiub":
        raise BadStep(
            f"an environment's {what} must be one number, got {array.dtype} of shape {array.shape}: reduce it in a "
            "wrapper of the environment"
        )
    return float(array.item())
