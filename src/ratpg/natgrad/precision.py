"""All of float32's digits, whatever a program has allowed its layers to leave out."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def full_precision() -> Iterator[None]:
    """TF32, its like on CPUs, and autocast off: ``K`` and the solve need all of float32's digits."""
    backends: list[Any] = [torch.backends.cuda.matmul, getattr(torch.backends.cudnn, "conv", torch.backends.cudnn)]
    backends += [getattr(torch.backends.mkldnn, name, None) for name in ("matmul", "conv")]
    # `allow_tf32` is how PyTorch before 2.9 says it; asking for it there where the newer way was used is an error.
    attribute, off = ("fp32_precision", "ieee") if hasattr(backends[0], "fp32_precision") else ("allow_tf32", False)
    before = [getattr(backend, attribute, None) for backend in backends]
    try:
        for backend, value in zip(backends, before, strict=True):
            if value is not None:
                setattr(backend, attribute, off)
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield
    finally:
        for backend, value in zip(backends, before, strict=True):
            if value is not None:
                setattr(backend, attribute, value)
