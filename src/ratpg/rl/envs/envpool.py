"""EnvPool's compiled simulators (Weng et al. 2022, arXiv 2206.10558): fast, but their state cannot be saved."""

import contextlib
import itertools
import os
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from typing import Any

import numpy as np

from ratpg.rl.envs.envpool_options import check_options
from ratpg.rl.envs.flatten import flat_rows, flat_space
from ratpg.rl.envs.vec_env import Backend, CannotDraw, UnsupportedSpace, VecEnv

try:
    import envpool
except ImportError:  # no wheel for this platform; `make_vec` falls back to Gymnasium
    envpool = None

SPLIT = 16
"""The least environments in a half: with fewer, handing work to the simulator's threads costs more than is won."""
NICENESS = 5
"""By how much the simulator's threads yield where there are halves: they then have a third of the claim on a core that
other threads, and other programs, have."""

ENLARGED = 4
"""By how much images are enlarged, so that they can be watched."""


def _come_last() -> None:
    """Of threads that want a core, the calling one and those that it starts from now on come last; on Linux.

    The simulator's threads would push aside the one that hands them actions as soon as they have any, while the other
    half of the environments waits for theirs.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # where it is forbidden
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        with contextlib.suppress(OSError):
            os.nice(NICENESS)  # which on Linux is a thread's own


def known_ids() -> list[str]:
    """Every id EnvPool can make; empty where it is not installed."""
    return [] if envpool is None else envpool.list_all_envs()


class EnvPoolEnv(VecEnv):
    """EnvPool, whose results do not depend on its number of threads, nor on its being split.

    From ``2 * SPLIT`` environments on they are two pools of one half each: one half is simulated while actions are
    found for the other, so that no core waits for the policy; and the simulator's threads come after the one
    that finds them.
    """

    backend: Backend = "envpool"

    def __init__(self, env_id: str, num_envs: int, seed: int, num_threads: int, options: Mapping[str, Any]):
        options = dict(options)
        if options:
            check_options(env_id, options, envpool.make_spec(env_id).config._asdict())
        players = envpool.make_spec(env_id).config.max_num_players
        if players > 1:
            raise UnsupportedSpace(f"{env_id} has {players} players: a policy here is one alone")
        if env_id in ("Humanoid-v4", "HumanoidStandup-v4"):
            options.setdefault("post_constraint", True)  # without it the contact forces in the observation are all zero
        self.num_envs = num_envs
        middle = num_envs // 2
        bounds = (0, middle, num_envs) if middle >= SPLIT else (0, num_envs)
        groups = tuple(slice(start, stop) for start, stop in itertools.pairwise(bounds))
        sizes = [where.stop - where.start for where in groups]
        split = len(groups) > 1
        with ThreadPoolExecutor(1, initializer=_come_last if split else None) as maker:
            self._pools = [
                # EnvPool seeds its environment i with seed + i, so that a split changes no environment's stream.
                maker.submit(
                    envpool.make_gymnasium,
                    env_id,
                    num_envs=size,
                    seed=seed + where.start,
                    num_threads=min(num_threads, size),
                    **options,
                ).result()
                for size, where in zip(sizes, groups, strict=True)
            ]
        self._ids = [np.arange(size, dtype=np.int32) for size in sizes]
        self._space = self._pools[0].observation_space
        self.observation_space = flat_space(self._space)
        self.action_space = self._pools[0].action_space
        self._restarting: list[np.ndarray | None] = [None] * len(groups)
        first = [flat_rows(self._space, pool.reset()[0]) for pool in self._pools]
        self._start(groups, first, self._pools[0].spec.config.max_episode_steps)

    def send(self, group: int, actions: np.ndarray) -> None:
        actions, which = actions.astype(self.action_space.dtype, copy=False), self._restarting[group]
        if which is None:
            self._pools[group].send(actions, self._ids[group])
        elif not which.all():
            self._pools[group].send(actions[~which], self._ids[group][~which])

    def _receive(self, group: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        which = self._restarting[group]
        if which is not None:
            return self._receive_and_restart(group, which)
        observation, reward, terminated, truncated, _ = self._pools[group].recv()
        return flat_rows(self._space, observation), reward, terminated, truncated

    def _restart(self, group: int, which: np.ndarray) -> None:
        self._restarting[group] = which

    def _receive_and_restart(
        self, group: int, which: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Resets environments, bool ``[n]``, and receives what the others were sent."""
        pool, size = self._pools[group], len(which)
        self._restarting[group] = None
        observations = np.empty_like(self.observations[group])
        rewards, (terminated, truncated) = np.zeros(size), np.zeros((2, size), dtype=bool)
        if not which.all():
            observation, reward, ended, cut, info = pool.recv()
            index = info["env_id"]
            observations[index], rewards[index] = flat_rows(self._space, observation), reward
            terminated[index], truncated[index] = ended, cut
        observation, info = pool.reset(self._ids[group][which])
        observations[info["env_id"]] = flat_rows(self._space, observation)
        return observations, rewards, terminated, truncated

    @property
    def frames_per_second(self) -> Fraction:
        return Fraction(60, getattr(self._pools[0].spec.config, "frame_skip", 4))  # Atari's; Procgen's are 15

    def render(self) -> np.ndarray:
        """The observation, where it is an image: of several the newest, ``ENLARGED`` times as large.

        EnvPool's own pictures need OpenGL, and end the process where there is none.
        """
        observation, config = self.observations[0][0], self._pools[0].spec.config
        image = observation if observation.shape[2:] == (3,) else np.moveaxis(observation, 0, -1)
        colours = image.shape[-1] // getattr(config, "stack_num", 1)
        if observation.dtype != np.uint8 or observation.ndim != 3 or colours not in (1, 3):
            raise CannotDraw("only images are drawn of environments that EnvPool alone has")
        newest = np.broadcast_to(image[..., -colours:], (*image.shape[:2], 3))
        return newest.repeat(ENLARGED, 0).repeat(ENLARGED, 1)

    def close(self) -> None:
        for pool in self._pools:
            pool.close()
