"""Matrix products by oneDNN, the second of the two libraries that PyTorch has on CPUs.

`torch.mm` goes to MKL, which does not use the AVX-512 units of AMD's cores: there oneDNN does the same float32 product
in half the time and less, at the same precision. (On Intel's own processors both do.)
"""

import torch
from torch import Tensor

_linear = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None


def product(a: Tensor, b: Tensor) -> Tensor:
    """``a bᵀ`` for ``a [m, k]`` and ``b [n, k]``, ``[m, n]``."""
    # oneDNN's call has no derivative.
    differentiated = torch.is_grad_enabled() and (a.requires_grad or b.requires_grad)
    if _linear is not None and not differentiated and _suits(a) and _suits(b) and torch.backends.mkldnn.enabled:
        product: Tensor = _linear(a, b, None, "none", [], "")
        return product
    return a @ b.T


def _suits(matrix: Tensor) -> bool:
    """Whether oneDNN's fast code takes it: something, and not rows that do not lie one behind another."""
    dense = matrix.numel() > 0 and (matrix.is_contiguous() or matrix.T.is_contiguous())
    return dense and matrix.dtype == torch.float32 and matrix.device.type == "cpu"
