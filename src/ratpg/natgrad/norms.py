"""Rows of the weights and biases of normalisation layers: few entries a sample, so they are held as they are."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ratpg.natgrad.factors import DenseFactor, Factor
from ratpg.natgrad.layer import Layer


def _layer_norm(module: Any, x: Tensor) -> Tensor:
    return F.layer_norm(x, module.normalized_shape, None, None, module.eps)


def _rms_norm(module: Any, x: Tensor) -> Tensor:
    return F.rms_norm(x, module.normalized_shape, None, module.eps)


def _group_norm(module: Any, x: Tensor) -> Tensor:
    return F.group_norm(x, module.num_groups, None, None, module.eps)


def _batch_norm(module: Any, x: Tensor) -> Tensor:
    mean, variance = module.running_mean.to(x.dtype), module.running_var.to(x.dtype)
    return F.batch_norm(x, mean, variance, None, None, False, 0.0, module.eps)


NORMALISED: dict[Callable, Callable[[Any, Tensor], Tensor]] = {
    nn.LayerNorm.forward: _layer_norm,
    nn.RMSNorm.forward: _rms_norm,
    nn.GroupNorm.forward: _group_norm,
    nn.BatchNorm1d.forward: _batch_norm,  # of all dimensions; recorded in eval mode only
}
"""The normalised input ``x̂`` of a layer, by its forward."""


def norm_factors(layer: Layer) -> list[Factor]:
    """Factors of ``y = x̂ ∘ w + b``, whose rows are sums over tokens of ``d ∘ x̂`` and of ``d``."""
    if not layer.divides():
        return []
    sums: dict[str, Tensor] = {}
    scales: dict[str, Tensor] = {}
    for module, inputs, gradients in layer.calls:
        for attribute in layer.names:
            rows = gradients if attribute == "bias" else gradients * NORMALISED[type(module).forward](module, inputs)
            scale = torch.linalg.vector_norm(rows.reshape(layer.samples, -1), dim=1)
            if not isinstance(module, nn.LayerNorm | nn.RMSNorm) and rows.ndim > 2:
                rows = rows.flatten(2).sum(2)  # the weight is for channels, [B · F, C, *space]
            rows = rows.reshape(layer.samples, -1, *module.weight.shape).sum(1)
            sums[attribute] = sums[attribute] + rows if attribute in sums else rows
            scales[attribute] = scales[attribute] + scale if attribute in scales else scale
    return [DenseFactor(rows, layer.names[attribute], scale=scales[attribute]) for attribute, rows in sums.items()]
