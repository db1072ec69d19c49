"""What a vector environment is to the rest of the library, and how one is made."""

import difflib
import importlib
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from ratpg.rl.envs.faults import EnvironmentFailed, described
from ratpg.rl.envs.options import BadOption
from ratpg.rl.envs.stagger import Stagger

QT = "Procgen needs the Qt 5 library, which `make setup-procgen` installs (sudo apt-get install libqt5gui5)"

Backend = Literal["auto", "envpool", "gymnasium"]


class UnsupportedSpace(ValueError):
    """An observation or action space that no policy here handles."""


class UnknownEnvironment(ValueError):
    """No backend knows this environment."""


class BadStep(ValueError):
    """An environment returned from a step what no environment should."""


class CannotDraw(ValueError):
    """An environment has no pictures, or not on this machine."""


def stored_dtype(dtype: np.dtype) -> np.dtype:
    """The type in which observations are kept without loss: bytes as they are, since images are large; float32 where it
    holds every value of their type; else float64."""
    if dtype == np.uint8:
        return dtype
    return np.dtype(np.float32 if np.can_cast(dtype, np.float32) else np.float64)


class VecEnv(ABC):
    """``num_envs`` copies of an environment that reset on the *next* step.

    After a step in which ``done[i]``, `observation` ``[i]`` is the episode's true final observation; the next step
    ignores environment i's action, pays nothing, and brings the first observation of a new episode. Such a
    transition is no experience, and `ratpg.rl.rollout` masks it.

    `step` moves all environments. `send` and `receive` move one of `groups`, so that some can be simulated while
    actions for others are found; what comes out is the same.

    Attributes:
        backend: what steps them, "envpool" or "gymnasium".
        groups: the environments that are stepped together, as slices of 0..N, in order.
        observations: the current raw observations of each group as the simulator gave them, ``[n, *shape]``.
        dones: whether the last step ended the episode, of each group, bool ``[n]``.
        cuts: whether that was a cut by `stagger`, of each group, bool ``[n]``.
        time_limit: steps after which the simulator cuts an episode, or None.
    """

    backend: Backend
    num_envs: int
    observation_space: gym.Space
    action_space: gym.Space
    groups: tuple[slice, ...]
    observations: list[np.ndarray]
    dones: list[np.ndarray]
    cuts: list[np.ndarray]
    time_limit: int | None
    _staggers: list[Stagger]

    @property
    def observation(self) -> Tensor:
        """The current raw observations of all environments in their `stored_dtype`, ``[N, *shape]``."""
        observations = np.concatenate(self.observations)
        return torch.from_numpy(observations.astype(stored_dtype(observations.dtype), copy=False))

    @property
    def done(self) -> np.ndarray:
        """Whether the last step ended environment i's episode, bool ``[N]``."""
        return np.concatenate(self.dones)

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Steps every environment; returns (reward, terminated, truncated), each ``[N]``."""
        for group, where in enumerate(self.groups):
            self.send(group, actions[where])
        received = [self.receive(group) for group in range(len(self.groups))]
        reward, terminated, truncated = (np.concatenate(parts) for parts in zip(*received, strict=True))
        return reward, terminated, truncated

    def receive(self, group: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Waits for the step that `send` began; returns the group's (reward, terminated, truncated).

        Raises:
            EnvironmentFailed: for whatever an environment raises.
        """
        try:
            self.observations[group], reward, terminated, truncated = self._receive(group)
        except (Exception, SystemExit) as error:  # whatever an environment raises
            raise EnvironmentFailed(f"the environment failed: {described(error)}") from error
        if self._staggers:
            self.cuts[group] = self._staggers[group].cut(terminated | truncated)
            if self.cuts[group].any():
                truncated = truncated | self.cuts[group]
                self._restart(group, self.cuts[group])
        self.dones[group] = terminated | truncated
        return reward, terminated, truncated

    def stagger(self) -> None:
        """Truncates each environment's first episode at another length (`Stagger`); for environments just made.

        Nothing is done where there is no time limit. One environment alone has nothing to be out of step with.
        """
        if self.time_limit:
            self._staggers = [Stagger.over(self.time_limit, self.num_envs, where) for where in self.groups]

    def _start(self, groups: tuple[slice, ...], observations: list[np.ndarray], time_limit: int | None) -> None:
        """Takes the observations of the first reset, of each group."""
        self.groups = groups
        self.observations = observations
        self.dones, self.cuts = ([np.zeros(len(group), dtype=bool) for group in observations] for _ in range(2))
        self.time_limit, self._staggers = time_limit, []

    @abstractmethod
    def send(self, group: int, actions: np.ndarray) -> None:
        """Begins to step one group's environments with its actions, ``[n, ...]``."""

    @abstractmethod
    def _receive(self, group: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]: ...

    @abstractmethod
    def _restart(self, group: int, which: np.ndarray) -> None:
        """Lets the next step of some of a group's environments, bool ``[n]``, be a reset."""

    @property
    @abstractmethod
    def frames_per_second(self) -> Fraction:
        """Steps that make a second, for someone who watches."""

    @abstractmethod
    def render(self) -> np.ndarray:
        """A picture of the first environment, uint8 ``[height, width, 3]``.

        Raises:
            CannotDraw: where that cannot be had.
        """

    @abstractmethod
    def close(self) -> None: ...

    def state_dict(self) -> dict[str, Any] | None:
        """The environments' whole state in plain values, or None where the simulator cannot give it."""
        return None

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from `state_dict`'s state."""
        raise ValueError(f"{type(self).__name__} cannot restore a state")


def make_vec(
    env_id: str,
    num_envs: int,
    *,
    seed: int,
    backend: Backend = "auto",
    num_threads: int = 1,
    options: Mapping[str, Any] | None = None,
) -> VecEnv:
    """Makes and resets a vector environment.

    Args:
        env_id: an id that EnvPool or Gymnasium knows, such as ``"Hopper-v4"``.
        num_envs: how many copies.
        seed: every copy gets a seed of its own, drawn from this one.
        backend: ``"envpool"`` for speed, ``"gymnasium"`` for any registered id and for states that can be saved;
            ``"auto"`` takes EnvPool where it has the environment.
        num_threads: threads that EnvPool steps with.
        options: of the environment, as its maker takes them, such as Procgen's ``num_levels``.

    Raises:
        UnknownEnvironment: naming the ids that look most like it, or what is missing on this machine.
        UnsupportedSpace: for observations that no policy here handles.
        BadOption: for an option that the environment does not have.
        EnvironmentFailed: for whatever else an environment raises as it is made.
    """
    with warnings.catch_warnings():
        # Gymnasium notices that v4 environments are old (a study of v4 wants v4) and that bounds are float32.
        warnings.simplefilter("ignore")
        return _make(env_id, num_envs, seed, backend, num_threads, options or {})


def _make(
    env_id: str, num_envs: int, seed: int, backend: Backend, num_threads: int, options: Mapping[str, Any]
) -> VecEnv:
    try:
        return _make_known(env_id, num_envs, seed, backend, num_threads, options)
    except Exception as error:  # whatever an environment raises as it is made and reset
        if isinstance(error, UnknownEnvironment | UnsupportedSpace | BadOption | MemoryError):
            raise
        if not options:
            raise EnvironmentFailed(f"environment '{env_id}' cannot be made: {described(error)}") from error
        told = ", ".join(f"{name}={value}" for name, value in options.items())
        raise BadOption(f"environment '{env_id}' cannot be made with options {told}: {described(error)}") from error


def _make_known(
    env_id: str, num_envs: int, seed: int, backend: Backend, num_threads: int, options: Mapping[str, Any]
) -> VecEnv:
    from ratpg.rl.envs import envpool, gymnasium

    seed = int(np.random.SeedSequence(seed).generate_state(1)[0] >> 1)
    known: list[str] = []
    if backend in ("auto", "envpool"):
        known += envpool.known_ids()
        if env_id in known:
            try:
                return envpool.EnvPoolEnv(env_id, num_envs, seed, num_threads, options)
            except (ImportError, RuntimeError) as error:  # a system library it needs is missing, say
                reason = QT if "Qt" in str(error) else str(error)
                raise UnknownEnvironment(f"environment '{env_id}' cannot be made by EnvPool: {reason}") from error
        if backend == "envpool" and not known:
            raise UnknownEnvironment("EnvPool is not installed on this machine: use --backend gymnasium")
    if backend in ("auto", "gymnasium"):
        known += gymnasium.known_ids()
        if module := env_id.rpartition(":")[0]:
            _import(env_id, module)
        if gymnasium.is_known(env_id):
            if gymnasium.is_mujoco(env_id):
                _import_mujoco(env_id)
            try:
                return gymnasium.GymnasiumEnv(env_id, num_envs, seed, options)
            except (gym.error.Error, ImportError) as error:  # a package it needs is missing, say
                raise UnknownEnvironment(f"environment '{env_id}' cannot be made: {error}") from error
    near = difflib.get_close_matches(env_id, known, n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(dict.fromkeys(near))}?" if near else "its package may have to be installed"
    raise UnknownEnvironment(f"unknown environment '{env_id}' on backend '{backend}': {hint}")


def _import(env_id: str, module: str) -> None:
    """Imports the module that registers an environment, or says why that cannot be done."""
    reason = f"there is no module '{module}' to import"
    if module.startswith("."):
        raise UnknownEnvironment(f"unknown environment '{env_id}': {reason}")
    try:
        importlib.import_module(module)
    except Exception as error:
        if not (isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}.")):
            reason = f"module '{module}' cannot be imported: {error}"
        raise UnknownEnvironment(f"unknown environment '{env_id}': {reason}") from error


def _import_mujoco(env_id: str) -> None:
    """Imports MuJoCo, which fails where MUJOCO_GL names what is not there, whether or not anything is drawn."""
    try:
        importlib.import_module("mujoco")
    except Exception as error:  # whatever the libraries that draw raise
        chosen = os.environ.get("MUJOCO_GL")
        hint = f": unset MUJOCO_GL, which is '{chosen}'" if chosen else ""
        raise UnknownEnvironment(f"environment '{env_id}' cannot be made: no MuJoCo ({error}){hint}") from error
