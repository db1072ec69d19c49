"""Python's, NumPy's and PyTorch's global generators, from which some environments draw."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


class GlobalGenerators:
    """The global generators as one run has them, apart from the process's own.

    They are seeded as by Stable-Baselines3's ``set_random_seed``. An environment that draws from one of them then gives
    the same run from the same seed. This library's own noise comes from generators of its own, so that nothing else
    depends on them. Of PyTorch's it is the CPU's.

    Args:
        seed: of all three.
    """

    def __init__(self, seed: int):
        before = _states()
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.default_generator.manual_seed(seed)
        self._states = _states()
        _set(before)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Makes them the process's generators for a while; afterwards those have their states of before."""
        before = _states()
        _set(self._states)
        try:
            yield
        finally:
            self._states = _states()
            _set(before)

    def state_dict(self) -> dict[str, Any]:
        return self._states

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from `state_dict`'s state, which is tried at once."""
        before = _states()
        try:
            _set(state)
        finally:
            _set(before)
        self._states = state


def _states() -> dict[str, Any]:
    """Plain values and tensors, as checkpoints hold them."""
    kind, keys, *rest = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(np.asarray(keys, np.int64)), *rest),
        "torch": torch.get_rng_state(),
    }


def _set(states: dict[str, Any]) -> None:
    random.setstate(states["python"])
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"])
