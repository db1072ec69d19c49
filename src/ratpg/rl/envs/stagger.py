"""Brings environments out of step."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch


class Stagger:
    """Says when the first episodes of some environments are to be cut, each at another length.

    Where every episode lasts until the time limit, as in HalfCheetah or Swimmer, environments that start together stay
    together: each rollout shows one phase of an episode alone, to which the critic and the normalisers follow. One cut
    at the start, after another share of the time limit in each environment, is enough to spread them over all phases
    for good. An episode that has ended by itself before is left alone.

    Args:
        lengths: steps after which each environment's first episode is cut.
    """

    def __init__(self, lengths: Sequence[int]):
        self._lengths = np.array(lengths)
        self._first = np.ones(len(lengths), dtype=bool)
        self._steps = 0

    @staticmethod
    def over(time_limit: int, num_envs: int, where: slice) -> "Stagger":
        """For some of ``num_envs`` environments, spread over the whole of their episodes."""
        lengths = [time_limit * (index + 1) // num_envs for index in range(num_envs)]
        return Stagger(lengths[where])

    def cut(self, ended: np.ndarray) -> np.ndarray:
        """Counts a step; says which episodes are cut after it.

        Args:
            ended: whether an episode ended by itself in this step, bool ``[n]``.
        """
        self._steps += 1
        due = self._first & ~ended & (self._steps >= self._lengths)
        self._first &= ~(ended | due)
        return due

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self._steps, "first": torch.from_numpy(self._first.copy())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._steps = state["steps"]
        self._first = state["first"].numpy().copy()
