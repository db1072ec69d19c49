"""Matrix products by oneDNN, the second of the two libraries that PyTorch has on CPUs.

`torch.mm` goes to MKL, which does not use the AVX-512 units of AMD's cores: there oneDNN does the same float32 product
in half the time and less, at the same precision. (On Intel's own processors both do.) oneDNN also adds a bias and
applies an activation without another pass over the result.
"""

from typing import Literal

import torch
from torch import Tensor

_linear = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None

Activation = Literal["none", "relu", "tanh"]
_ACTIVATIONS = {"none": lambda x: x, "relu": torch.relu, "tanh": torch.tanh}


def product(a: Tensor, b: Tensor, bias: Tensor | None = None, activation: Activation = "none") -> Tensor:
    """``activation(a bᵀ + bias)`` for ``a [m, k]``, ``b [n, k]`` and ``bias [n]``, ``[m, n]``."""
    # oneDNN's call has no derivative.
    differentiated = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (a, b, bias))
    if _linear is not None and not differentiated and _suits(a) and _suits(b) and torch.backends.mkldnn.enabled:
        result: Tensor = _linear(a, b, bias, activation, [], "")
        return result
    result = a @ b.T if bias is None else torch.addmm(bias, a, b.T)
    return _ACTIVATIONS[activation](result)


def _suits(matrix: Tensor) -> bool:
    """Whether oneDNN's fast code takes it: something, and not rows that do not lie one behind another."""
    dense = matrix.numel() > 0 and (matrix.is_contiguous() or matrix.T.is_contiguous())
    return dense and matrix.dtype == torch.float32 and matrix.device.type == "cpu"
