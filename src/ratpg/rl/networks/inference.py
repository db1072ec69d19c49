"""Running a network on a few observations at a time, as a rollout does at every step."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

IN_PLACE: dict[type[nn.Module], Callable[[Tensor], Tensor]] = {nn.ReLU: torch.relu_, nn.Tanh: torch.tanh_}
"""Activations of the fast path."""


def for_inference(layers: list[nn.Module]) -> Callable[[Tensor], Tensor]:
    """The layers' forward pass ``[n, d_in] -> [n, d_out]`` under the weights as they are now.

    A chain of plain linear layers and activations becomes matrix products into buffers that are allocated once, which
    takes half of the time of the modules' calls at 32 observations; anything else is called as it is. The result is
    overwritten by the next call.
    """
    plain = all(type(layer) is nn.Linear or type(layer) in IN_PLACE for layer in layers)
    if not plain or not isinstance(layers[0], nn.Linear):
        return nn.Sequential(*layers)
    return _Chain(layers)


class _Chain:
    def __init__(self, layers: list[nn.Module]):
        self._products: list[tuple[Tensor | None, Tensor]] = []  # (bias, transposed weight)
        self._activations: list[list[Callable[[Tensor], Tensor]]] = []  # those after each product
        for layer in layers:
            if isinstance(layer, nn.Linear):
                bias = None if layer.bias is None else layer.bias.detach()
                self._products.append((bias, layer.weight.detach().T.contiguous()))
                self._activations.append([])
            else:
                self._activations[-1].append(IN_PLACE[type(layer)])
        self._buffers: dict[int, list[Tensor]] = {}

    @torch.inference_mode()
    def __call__(self, x: Tensor) -> Tensor:
        buffers = self._buffers.get(len(x))
        if buffers is None:
            buffers = self._buffers[len(x)] = [x.new_empty(len(x), weight.shape[1]) for _, weight in self._products]
        for (bias, weight), activations, out in zip(self._products, self._activations, buffers, strict=True):
            if bias is None:
                torch.mm(x, weight, out=out)
            else:
                torch.addmm(bias, x, weight, out=out)
            for activation in activations:
                activation(out)
            x = out
        return x
