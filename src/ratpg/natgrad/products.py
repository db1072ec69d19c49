"""Matrix products by the faster of the two libraries that PyTorch has on CPUs.

`torch.mm` goes to MKL, which does not use the AVX-512 units of AMD's cores: there oneDNN does the same float32 product
in half the time and less, at the same precision. On Intel's own processors MKL is a little faster, and much where both
matrices are transposed. oneDNN also adds a bias and applies an activation without another pass over the result. Cores
that have AVX2 alone do everything sooner by MKL, the small products of a policy several times: 9 µs instead of 59.
"""

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

_linear = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None
_linear_and_add = getattr(_linear, "binary", None)

_CPUS = Path("/proc/cpuinfo")
_INTEL = _CPUS.exists() and "GenuineIntel" in _CPUS.read_text()
mkls: Literal["all", "plain", "none"] = (
    "all" if torch.backends.cpu.get_cpu_capability() == "AVX2" else "plain" if _INTEL else "none"
)
"""Which products are MKL's; plain ones have neither a bias nor an activation."""

Activation = Literal["none", "relu", "tanh"]
_ACTIVATIONS = {"none": lambda x: x, "relu": torch.relu_, "tanh": torch.tanh_}


def product(a: Tensor, b: Tensor, bias: Tensor | None = None, activation: Activation = "none") -> Tensor:
    """``activation(a bᵀ + bias)`` for ``a [m, k]``, ``b [n, k]`` and ``bias [n]``, ``[m, n]``."""
    plain = bias is None and activation == "none"
    by_mkl = mkls == "all" or (plain and mkls == "plain")
    if not by_mkl and _linear is not None and _suits(a, b, bias):
        # Of two transposed matrices the one of fewer rows goes first: 70 µs instead of 310 for the gradient
        # [256, 11] of a weight.
        if plain and len(b) < len(a) and not (a.is_contiguous() or b.is_contiguous()):
            return product(b, a).T.contiguous()  # fused optimisers take a gradient's memory as it lies
        result: Tensor = _linear(a, b, bias, activation, [], "")
        return result
    result = a @ b.T if bias is None else torch.addmm(bias, a, b.T)
    return _ACTIVATIONS[activation](result)


def updated(total: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """``total + a bᵀ`` for ``a [m, k]``, ``b [n, k]`` and ``total [m, n]``, whose memory may be that of the result."""
    if mkls == "none" and _linear_and_add is not None and _suits(a, b, total) and total.is_contiguous():
        result: Tensor = _linear_and_add(a, total, b, None, "add")
        return result
    return total.addmm_(a, b.T)


def _suits(a: Tensor, b: Tensor, added: Tensor | None) -> bool:
    """Whether it is oneDNN's: its call has no derivative, and its fast code is for matrices that are not
    empty and whose rows lie one behind another."""
    if not torch.backends.mkldnn.enabled:
        return False
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (a, b, added)):
        return False
    return all(
        matrix.numel() > 0
        and matrix.dtype == torch.float32
        and matrix.device.type == "cpu"
        and (matrix.is_contiguous() or matrix.T.is_contiguous())
        for matrix in (a, b)
    )
