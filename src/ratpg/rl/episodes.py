"""Returns and lengths of the episodes that a stream of rollouts finishes."""

from collections import deque
from typing import Any

import numpy as np

from ratpg.rl.rollout import Rollout


class EpisodeTracker:
    """Sums rewards over rollouts and remembers the last finished episodes.

    Args:
        num_envs: environments in each rollout.
        window: episodes remembered.
    """

    def __init__(self, num_envs: int, window: int = 100):
        self.returns: deque[float] = deque(maxlen=window)
        self.lengths: deque[int] = deque(maxlen=window)
        self.finished = 0
        self._return = np.zeros(num_envs)
        self._length = np.zeros(num_envs, dtype=np.int64)

    def update(self, rollout: Rollout) -> None:
        """Adds a rollout's raw rewards; an episode cut by `VecEnv.stagger` counts as none."""
        columns = rollout.rewards, rollout.done, rollout.valid, rollout.cut
        for reward, ended, counted, cut in zip(*(t.cpu().numpy() for t in columns), strict=True):
            self._return += reward
            self._length += counted
            for index in np.flatnonzero(ended):
                if not cut[index]:
                    self.returns.append(float(self._return[index]))
                    self.lengths.append(int(self._length[index]))
                    self.finished += 1
                self._return[index], self._length[index] = 0.0, 0

    def forget_unfinished(self) -> None:
        """Drops the episodes under way, where a resumed run starts new ones."""
        self._return[:], self._length[:] = 0.0, 0

    def return_mean(self) -> float:
        """Mean return of the remembered episodes; NaN before the first."""
        return float(np.mean(self.returns)) if self.returns else float("nan")

    def length_mean(self) -> float:
        return float(np.mean(self.lengths)) if self.lengths else float("nan")

    def state_dict(self) -> dict[str, Any]:
        return {
            "returns": list(self.returns),
            "lengths": list(self.lengths),
            "finished": self.finished,
            "return": self._return.tolist(),
            "length": self._length.tolist(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.returns.clear()
        self.lengths.clear()
        self.returns.extend(state["returns"])
        self.lengths.extend(state["lengths"])
        self.finished = state["finished"]
        self._return = np.array(state["return"])
        self._length = np.array(state["length"], dtype=np.int64)
