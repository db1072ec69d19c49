"""Which modules have a fast factor, and how their recorded calls become one."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ratpg.natgrad.embedding import EmbeddingFactor
from ratpg.natgrad.factors import DenseFactor, Factor, OuterFactor
from ratpg.natgrad.layer import Layer
from ratpg.natgrad.linear import Linear
from ratpg.natgrad.norms import NORMALISED, norm_factors
from ratpg.natgrad.patches import Patches
from ratpg.natgrad.tokens import token_factors


class PerSampleParameter(nn.Module):
    """A free parameter, such as a state-independent ``log_std``, that gives each sample its own view.

    Called with a batch it returns ``[B, *shape]``, so a forward hook sees one gradient row a sample.

    Args:
        value: the initial value, of any shape.
    """

    def __init__(self, value: Tensor):
        super().__init__()
        self.value = nn.Parameter(value)

    def forward(self, batch: Tensor) -> Tensor:
        """The parameter expanded to ``[B, *shape]``, where ``B = len(batch)``."""
        return self.value.expand(batch.shape[0], *self.value.shape)  # which `len` would fix in a traced graph


def _per_sample(layer: Layer) -> list[Factor]:
    value = layer.calls[0].module.value
    if any(call.gradients.shape != (layer.samples, *value.shape) for call in layer.calls):
        return []
    return [DenseFactor(torch.stack([call.gradients for call in layer.calls]).sum(0), layer.names["value"])]


def _linear(layer: Layer) -> list[Factor]:
    inputs, gradients = [], []
    if len({call.inputs.shape[-1] for call in layer.calls}) > 1:  # of modules that share a bias alone
        return []
    for _, call_inputs, call_gradients in layer.calls:
        rows = call_gradients.numel() // call_gradients.shape[-1]
        if rows == 0 or rows % layer.samples:
            return []
        # [B, ..., d] or [B * T, d] -> [B, T, d]; a layout where samples are not the slowest dimension is
        # caught by the comparison with autograd (`verifier`).
        inputs.append(call_inputs.reshape(layer.samples, -1, call_inputs.shape[-1]))
        gradients.append(call_gradients.reshape(layer.samples, -1, call_gradients.shape[-1]))
    # A module that ran more than once sums its scores before they are contracted: its calls are more tokens.
    a = inputs[0] if len(inputs) == 1 else torch.cat(inputs, 1)
    d = gradients[0] if len(gradients) == 1 else torch.cat(gradients, 1)
    weight, bias = layer.names.get("weight"), layer.names.get("bias")
    if a.shape[1] == 1:
        return [OuterFactor(a.squeeze(1), d.squeeze(1), weight, bias)]
    shape = (d.shape[2], a.shape[2])
    return token_factors(a[:, None], d[:, None], weight, bias, shape, layer.keep_tokens)


def _convolution(layer: Layer) -> list[Factor]:
    first = layer.calls[0].module
    axes = len(first.kernel_size)
    if not layer.divides() or any(
        (call.inputs.ndim, call.module.groups, call.module.weight.shape) != (2 + axes, first.groups, first.weight.shape)
        for call in layer.calls
    ):
        return []
    images, gradients = [], []
    for module, call_inputs, call_gradients in layer.calls:
        images.append((module, call_inputs.unflatten(0, (layer.samples, -1))))
        # [B · F, G · d_out, *out] -> [B, G, F · T, d_out]
        pixels = call_gradients.flatten(2).unflatten(1, (first.groups, -1)).unflatten(0, (layer.samples, -1))
        gradients.append(pixels.permute(0, 2, 1, 4, 3).flatten(2, 3))
    d = gradients[0] if len(gradients) == 1 else torch.cat(gradients, 2)
    weight, bias = layer.names.get("weight"), layer.names.get("bias")
    patches = Patches(images, d.shape[2])
    return token_factors(patches, d, weight, bias, tuple(first.weight.shape), layer.keep_tokens)


def _embedding(layer: Layer) -> list[Factor]:
    ids, gradients = [], []
    for module, call_ids, call_gradients in layer.calls:
        if call_ids.numel() == 0 or call_ids.numel() % layer.samples:
            return []
        counts = torch.ones_like(call_ids) if module.padding_idx is None else (call_ids != module.padding_idx).long()
        if isinstance(module, nn.EmbeddingBag):  # each token of a bag has the bag's gradient, or its share
            if module.mode == "mean":
                call_gradients = call_gradients / counts.sum(1, keepdim=True).clamp(min=1)
            call_gradients = call_gradients[:, None]
        call_gradients = call_gradients * counts[..., None]
        ids.append(call_ids.reshape(layer.samples, -1))
        gradients.append(call_gradients.reshape(layer.samples, -1, call_gradients.shape[-1]))
    vocabulary = layer.calls[0].module.num_embeddings
    return [EmbeddingFactor(torch.cat(ids, 1).long(), torch.cat(gradients, 1), layer.names["weight"], vocabulary)]


BUILDERS: dict[Callable, Callable[[Layer], list[Factor]]] = {
    PerSampleParameter.forward: _per_sample,
    nn.Linear.forward: _linear,
    Linear.forward: _linear,
    nn.Conv1d.forward: _convolution,
    nn.Conv2d.forward: _convolution,
    nn.Conv3d.forward: _convolution,
    nn.Embedding.forward: _embedding,
    nn.EmbeddingBag.forward: _embedding,
} | dict.fromkeys(NORMALISED, norm_factors)
"""A module is known by its forward: a subclass with one of its own has no fast factor."""


def has_factor(module: nn.Module) -> bool:
    """Whether recorded calls of this module have a fast factor.

    A subclass with a forward of its own, and a parametrised layer (whose weight is no parameter), have none.
    """
    if isinstance(module, nn.EmbeddingBag) and module.mode == "max":
        return False
    owned = "value" if isinstance(module, PerSampleParameter) else "weight"
    # What was scripted or traced has a forward elsewhere, and so may an instance.
    forward = getattr(getattr(module, "forward", None), "__func__", None)
    return forward in BUILDERS and owned in module._parameters


def build_factors(layer: Layer) -> list[Factor]:
    """The factors of recorded calls; none where their leading dimensions cannot hold ``B`` samples, or a parameter is
    empty."""
    if any(parameter is not None and not parameter.numel() for parameter in layer.calls[0].module._parameters.values()):
        return []
    return BUILDERS[type(layer.calls[0].module).forward](layer)
