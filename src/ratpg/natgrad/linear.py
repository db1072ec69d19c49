"""A linear layer whose products, forward and backward, are those of `ratpg.natgrad.products`."""

from typing import Any

import torch
from torch import Tensor, nn

from ratpg.natgrad.products import product

WORTHWHILE = 2**21
"""Multiply-adds from which the faster product makes up for a node of the graph that is written in Python."""


class Linear(nn.Linear):
    """`torch.nn.Linear`, to rounding, with the faster of PyTorch's two libraries for large products on CPUs."""

    def forward(self, inputs: Tensor) -> Tensor:
        """``[..., d_in] -> [..., d_out]``."""
        small = inputs.numel() * len(self.weight) < WORTHWHILE
        fits = inputs.ndim == 2 and inputs.shape[1] == self.in_features and inputs.device.type == "cpu"
        if small or not fits or torch.is_autocast_enabled("cpu"):
            return super().forward(inputs)
        outputs: Tensor = _Product.apply(inputs, self.weight)
        return outputs if self.bias is None else outputs.add_(self.bias)


class _Product(torch.autograd.Function):
    """``a bᵀ``, whose derivatives are products of the same kind, to any order."""

    @staticmethod
    def forward(a: Tensor, b: Tensor) -> Tensor:
        return product(a, b)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        a, b = ctx.saved_tensors
        first, second = ctx.needs_input_grad
        return (
            _Product.apply(gradient, b.T) if first else None,
            _Product.apply(gradient.T, a.T) if second else None,
        )

    @staticmethod
    def jvp(ctx: Any, a_tangent: Tensor, b_tangent: Tensor) -> Tensor:
        a, b = ctx.saved_tensors
        return a_tangent @ b.T + a @ b_tangent.T

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, int | None], a: Tensor, b: Tensor) -> tuple[Tensor, int]:
        a, b = (t if dim is None else t.movedim(dim, 0) for t, dim in zip((a, b), in_dims, strict=True))
        return a @ b.mT, 0
