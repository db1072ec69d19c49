"""Environments that misbehave, each in one way; registered on import."""

import os
import sys
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np

LENGTH = 10
"""Steps in each episode, each of which pays 1."""
FAULT_STEP = 80
"""The step and reset, counted in each copy from when it was made, in which the failing ones fail."""
FLOOD = 1 << 20
"""Bytes: more than a pipe holds that nobody reads."""


class Plain(gym.Env):
    """Behaves."""

    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)
    made: ClassVar[int] = 0

    def __init__(self) -> None:
        self.taken, self.calls = 0, 0
        Plain.made += 1

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self.taken = 0
        self.calls += 1
        return self.observe(), {}

    def step(self, action: int):
        self.taken += 1
        self.calls += 1
        return self.observe(), 1.0, self.taken == LENGTH, False, {}

    def observe(self) -> np.ndarray:
        return self.np_random.uniform(-1, 1, 2).astype(np.float32)


class Failing(Plain):
    """Raises an error in the midst of a run."""

    def __init__(self, error: BaseException):
        super().__init__()
        self.error = error

    def step(self, action: int):
        if self.calls >= FAULT_STEP:
            raise self.error
        return super().step(action)


class Unmade(Plain):
    """Raises as it is reset."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        raise RuntimeError("no simulator\nanswers")


class ClosesBadly(Plain):
    def close(self) -> None:
        raise RuntimeError("simulator is gone")


class Wanders(Plain):
    """Changes the working directory as it is made, and at every step."""

    where: ClassVar[Path]

    def __init__(self) -> None:
        super().__init__()
        os.chdir(self.where)

    def step(self, action: int):
        os.chdir(self.where)
        return super().step(action)


class Floods(Plain):
    """Writes more to stderr than fits, once, and so waits in the midst of it until somebody reads."""

    def step(self, action: int):
        if self.calls == FAULT_STEP:
            sys.stderr.buffer.write(b"." * FLOOD)
            sys.stderr.buffer.flush()
        return super().step(action)


FAILURES = {
    "RuntimeError": RuntimeError("simulator lost"),
    "BrokenPipeError": BrokenPipeError(32, "simulator process died"),
    "SystemExit": SystemExit("simulator says goodbye"),
    "MemoryError": MemoryError(),
}
for name, error in FAILURES.items():
    gym.register(f"Hostile{name}-v0", entry_point=Failing, kwargs={"error": error})
for kind in (Plain, Unmade, ClosesBadly, Wanders, Floods):
    gym.register(f"Hostile{kind.__name__}-v0", entry_point=kind)
