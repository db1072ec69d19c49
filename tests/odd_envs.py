"""Environments that do what is allowed but rare. Registered on import, as `toy_envs` are."""

import itertools
import random
import typing
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.envs.classic_control import CartPoleEnv

CONSTANTS = np.array([1013.25, 6371.009, 299.792, 1234.567, 8314.46, 5778.1, 2026.9151, 4184.3])
"""A pressure, a radius, a date, ...: none is a number of single precision."""


class Ten(gym.Env):
    """Episodes of ten steps that show nothing and pay 1 each; the base of the others."""

    observation_space: gym.Space = gym.spaces.Box(-1, 1, (1,), np.float32)
    action_space: gym.Space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self.taken = 0
        return self.observe(), {}

    def observe(self) -> np.ndarray:
        return np.zeros(1, np.float32)

    def reward(self, action: Any) -> Any:
        return 1.0

    def step(self, action: Any):
        self.taken += 1
        reward = self.reward(action)
        return self.observe(), reward, self.taken == 10, False, {}


class Constants(Ten):
    """Eight features never change; the action should be the ninth. The action is unbounded."""

    action_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)

    def __init__(self, dtype: str = "float64"):
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (9,), np.dtype(dtype))

    def observe(self) -> np.ndarray:
        self.told = float(self.np_random.uniform(-1, 1))
        return np.append(CONSTANTS, self.told).astype(self.observation_space.dtype)

    def reward(self, action: np.ndarray) -> float:
        return -abs(float(action[0]) - self.told)

    def step(self, action: np.ndarray):
        result = super().step(action)
        action[:] = 1e6  # as a simulator that works in place
        return result


class Integer(Ten):
    """An integer Box, whose actions are checked, and whose greatest one is the best."""

    def __init__(self, low: int = 0, high: int = 1):
        self.action_space = gym.spaces.Box(low, high, (1,), np.int64)

    def reward(self, action: np.ndarray) -> float:
        assert self.action_space.contains(action), action
        return float(action[0] - self.action_space.high[0])


class Differentiates(Ten):
    """Takes a gradient in each step and in each reset, and pays a tensor that has one."""

    def observe(self) -> np.ndarray:
        weight = torch.ones(1, requires_grad=True)
        (weight * 2).sum().backward()
        assert weight.grad is not None
        return weight.grad.numpy() / 2

    def reward(self, action: Any) -> torch.Tensor:
        return torch.ones(1, requires_grad=True) * 1.0


class Informs(Ten):
    """Its `info` differs in kind from copy to copy and from step to step."""

    def step(self, action: Any):
        winner = None if self.np_random.random() < 0.5 else 1
        return *super().step(action)[:4], {"winner": winner, f"key{self.taken % 3}": np.zeros(self.taken)}


class Pays(Ten):
    """Pays what it is told to, in a form of its own."""

    FORMS: typing.ClassVar[dict[str, Any]] = {
        "float": 1.0,
        "int": 1,
        "bool": True,
        "array": np.ones(1),
        "scalar": np.float32(1),
        "nested": np.ones((1, 1), np.int32),
        "list": [1.0],
        "pair": np.ones(2),
        "nothing": None,
        "word": "1",
    }

    def __init__(self, form: str):
        self.form = self.FORMS[form]

    def reward(self, action: Any) -> Any:
        return self.form


class Unequal(Ten):
    """Each copy has bounds of its own."""

    made = itertools.count(1)

    def __init__(self, what: str):
        setattr(self, what, gym.spaces.Box(-1, next(self.made), (1,), np.float32))


class DrawsGlobally(CartPoleEnv):
    """Pays what Python's, NumPy's and PyTorch's global generators draw."""

    __module__ = "gymnasium.envs.classic_control.draws_globally"  # so that its state is known and saved

    def step(self, action: int):
        observation, _, *rest = super().step(action)
        return observation, random.random() + np.random.random() + float(torch.rand(())), *rest


for name, kind in {
    "Constants": Constants,
    "Integer": Integer,
    "Differentiates": Differentiates,
    "Informs": Informs,
    "Pays": Pays,
    "Unequal": Unequal,
    "DrawsGlobally": DrawsGlobally,
}.items():
    gym.register(f"Odd{name}-v0", entry_point=kind, max_episode_steps=500)
