"""Tiny Gymnasium environments whose every observation and reward is known in advance.

Registered on import; tests make them through `make_vec` or the command by id.
"""

import itertools
import typing
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.envs.mujoco.hopper_v5 import HopperEnv
from gymnasium.wrappers import FrameStackObservation

LENGTH = 3
"""Steps in each episode of the counting environments."""
FAULT_STEP = 40
"""The step, counted from the first reset, at which the faulty environments fail."""
FAULTY_COPIES = 2
"""Of so many copies the last one fails, the others never do."""


class Counting(gym.Env):
    """Episodes of three steps that pay 1, 2, 3; observes (episode, steps taken, last action)."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (3,), np.float64)
    action_space = gym.spaces.Box(-2.0, 4.0, (1,), np.float32)

    def __init__(self, terminates: bool):
        self.terminates, self.episode, self.taken = terminates, -1, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self.episode, self.taken = self.episode + 1, 0
        return np.array([self.episode, 0.0, 0.0]), {}

    def step(self, action: np.ndarray):
        self.taken += 1
        observation = np.array([self.episode, self.taken, action[0]], dtype=np.float64)
        return observation, float(self.taken), self.terminates and self.taken == LENGTH, False, {}


class Faulty(gym.Env):
    """Never ends; the last copy's observation or reward is NaN at one step."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)
    _made = itertools.count()

    def __init__(self, fault: str, fault_step: int = FAULT_STEP):
        self.fault, self.fault_step, self.taken = fault, fault_step, 0
        self.faulty = next(self._made) % FAULTY_COPIES == FAULTY_COPIES - 1

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        return np.zeros(2, dtype=np.float32), {}

    def step(self, action: int):
        failing = self.faulty and self.taken == self.fault_step
        self.taken += 1
        observation = np.full(2, np.nan if failing and self.fault == "observation" else 0.5, dtype=np.float32)
        return observation, float("nan") if failing and self.fault == "reward" else 1.0, False, False, {}


class Strange(gym.Env):
    """Has the spaces it is given."""

    def __init__(self, observation_space: gym.Space, action_space: gym.Space):
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any):
        return self.observation_space.sample(), 0.0, False, False, {}


class Told(gym.Env):
    """Every step shows which action pays, in one of several spaces; episodes of eight steps."""

    SPACES: typing.ClassVar[dict[str, tuple[gym.Space, gym.Space]]] = {
        "Dict": (
            gym.spaces.Dict({"noise": gym.spaces.Box(-1, 1, (2,), np.float32), "told": gym.spaces.Discrete(3)}),
            gym.spaces.Discrete(3),
        ),
        "Discrete": (gym.spaces.Discrete(3), gym.spaces.Discrete(3)),
        "MultiDiscrete": (gym.spaces.MultiDiscrete([3, 2]), gym.spaces.MultiDiscrete([3, 2], start=[-1, 5])),
        "MultiBinary": (gym.spaces.MultiBinary(3), gym.spaces.MultiBinary(3)),
        "Image": (gym.spaces.Box(0, 255, (40, 36, 3), np.uint8), gym.spaces.Discrete(2)),
    }

    def __init__(self, kind: str):
        self.kind, self.taken = kind, 0
        self.observation_space, self.action_space = self.SPACES[kind]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self.taken = 0
        return self._observe(), {}

    def step(self, action: Any):
        self.taken += 1
        reward = float(np.mean(np.asarray(action) == self.told))
        return self._observe(), reward, self.taken == 8, False, {}

    def _observe(self) -> Any:
        if self.kind == "Image":  # the upper or the lower half is bright
            self.told = int(self.np_random.integers(2))
            image = self.np_random.integers(0, 100, (40, 36, 3), dtype=np.uint8)
            image[20 * self.told : 20 * self.told + 20] += 120
            return image
        if self.kind == "Dict":
            self.told = int(self.np_random.integers(3))
            return {"noise": self.np_random.uniform(-1, 1, 2).astype(np.float32), "told": self.told}
        if self.kind == "Discrete":
            self.told = int(self.np_random.integers(3))
            return self.told
        if self.kind == "MultiDiscrete":
            shown = self.np_random.integers([3, 2])
            self.told = shown + np.array([-1, 5])
            return shown
        self.told = self.np_random.integers(0, 2, 3, dtype=np.int8)
        return self.told


class Remember(gym.Env):
    """Shows a sign in the first of four observations; the last action pays if it has that sign."""

    observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self.sign, self.taken = int(self.np_random.integers(2)), 0
        return np.array([2 * self.sign - 1], np.float32), {}

    def step(self, action: int):
        self.taken += 1
        ended = self.taken == 4
        return np.zeros(1, np.float32), float(ended and action == self.sign), ended, False, {}


class DelayedHopper(HopperEnv):
    """A Hopper that acts on the action of two steps ago: a state that is no array of the simulator's."""

    def __init__(self, **options: Any):
        self.waiting: list[np.ndarray] = []
        super().__init__(**options)

    def reset_model(self):
        self.waiting = [np.zeros(3), np.zeros(3)]
        return super().reset_model()

    def step(self, action: np.ndarray):
        self.waiting.append(action)
        return super().step(self.waiting.pop(0))


gym.register("ToyTerminating-v0", entry_point=lambda: Counting(terminates=True))
gym.register("ToyTruncating-v0", entry_point=lambda: Counting(terminates=False), max_episode_steps=LENGTH)
for what in ("observation", "reward"):
    gym.register(f"ToyNaN{what.capitalize()}-v0", entry_point=Faulty, kwargs={"fault": what})
    gym.register(f"ToyNaN{what.capitalize()}AtOnce-v0", entry_point=Faulty, kwargs={"fault": what, "fault_step": 3})
for kind in Told.SPACES:
    gym.register(f"ToyTold{kind}-v0", entry_point=Told, kwargs={"kind": kind})
gym.register("ToyRemember-v0", entry_point=Remember)
gym.register(
    "ToySequenceObservation-v0",
    entry_point=Strange,
    kwargs={
        "observation_space": gym.spaces.Dict({"a": gym.spaces.Sequence(gym.spaces.Discrete(3))}),
        "action_space": gym.spaces.Discrete(2),
    },
)
gym.register(
    "ToyTupleAction-v0",
    entry_point=Strange,
    kwargs={
        "observation_space": gym.spaces.Box(0, 1, (2,), np.float32),
        "action_space": gym.spaces.Tuple((gym.spaces.Discrete(2), gym.spaces.Discrete(2))),
    },
)
gym.register("ToyDelayedHopper-v0", entry_point=DelayedHopper, max_episode_steps=1000)
gym.register("ToyStackedCartPole-v0", entry_point=lambda: FrameStackObservation(CartPoleEnv(), 3))
