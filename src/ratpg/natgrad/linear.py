"""A linear layer whose products, forward and backward, are those of `ratpg.natgrad.products`."""

from typing import Any

import torch
from torch import Tensor, nn

from ratpg.natgrad import products
from ratpg.natgrad.products import product

WORTHWHILE = 2**21
"""Multiply-adds from which the faster product makes up for a node of the graph that is written in Python."""


class Linear(nn.Linear):
    """`torch.nn.Linear`, to rounding, with the faster of PyTorch's two libraries for large products on CPUs.

    Where `mkls` says that MKL has these, that is the one of `torch.nn.Linear`.
    """

    def forward(self, inputs: Tensor) -> Tensor:
        """``[..., d_in] -> [..., d_out]``."""
        if torch.compiler.is_compiling():  # where a choice by size would tie what is traced to that size
            return super().forward(inputs)
        small = inputs.numel() * len(self.weight) < WORTHWHILE
        fits = inputs.ndim == 2 and inputs.shape[1] == self.in_features and inputs.device.type == "cpu"
        if products.mkls != "none" or small or not fits or torch.is_autocast_enabled("cpu"):
            return super().forward(inputs)
        outputs: Tensor = _Affine.apply(inputs, self.weight, self.bias)
        return outputs


class _Affine(torch.autograd.Function):
    """``a bᵀ + bias`` with or without a bias, whose derivatives are products of the same kind, to any order."""

    @staticmethod
    def forward(a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
        return product(a, b, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.save_for_forward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        a, b = ctx.saved_tensors
        first, second, third = ctx.needs_input_grad
        return (
            _Affine.apply(gradient, b.T, None) if first else None,
            _Affine.apply(gradient.T, a.T, None) if second else None,
            gradient.sum(0) if third else None,
        )

    @staticmethod
    def jvp(ctx: Any, a_tangent: Tensor, b_tangent: Tensor, bias_tangent: Tensor | None) -> Tensor:
        a, b = ctx.saved_tensors
        tangent: Tensor = a_tangent @ b.T + a @ b_tangent.T
        return tangent if bias_tangent is None else tangent + bias_tangent

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], a: Tensor, b: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, int]:
        a, b = (t if dim is None else t.movedim(dim, 0) for t, dim in zip((a, b), in_dims[:2], strict=True))
        result = a @ b.mT
        if bias is not None:
            result = result + (bias if in_dims[2] is None else bias.movedim(in_dims[2], 0)[:, None])
        return result, 0
