"""All of float32's digits, whatever a program has allowed its layers to leave out."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import torch

_lock = Lock()
_inside = 0
_before: list[Any] = []


@contextmanager
def full_precision() -> Iterator[None]:
    """TF32, its like on CPUs, and autocast off: ``K`` and the solve need all of float32's digits.

    The switches are the process's. So they are set when the first block is entered and put back when the last one is
    left, in whichever threads these are.
    """
    global _inside, _before
    with _lock:
        if _inside == 0:
            backends, attribute, off = _switches()
            _before = [getattr(backend, attribute, None) for backend in backends]
            _set(backends, attribute, [None if value is None else off for value in _before])
        _inside += 1
    try:
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):  # of this thread
            yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                backends, attribute, _ = _switches()
                _set(backends, attribute, _before)


def _switches() -> tuple[list[Any], str, Any]:
    """What has a switch, its name, and its value for all digits."""
    backends: list[Any] = [torch.backends.cuda.matmul, getattr(torch.backends.cudnn, "conv", torch.backends.cudnn)]
    backends += [getattr(torch.backends.mkldnn, name, None) for name in ("matmul", "conv")]
    # `allow_tf32` is how PyTorch before 2.9 says it; asking for it there where the newer way was used is an error.
    attribute, off = ("fp32_precision", "ieee") if hasattr(backends[0], "fp32_precision") else ("allow_tf32", False)
    return backends, attribute, off


def _set(backends: list[Any], attribute: str, values: list[Any]) -> None:
    for backend, value in zip(backends, values, strict=True):
        if value is not None:
            setattr(backend, attribute, value)
