"""One backward pass that hands each gradient on as soon as it is known.

`torch.autograd.grad` holds every gradient that it was asked for until it returns. With convolutions these take as much
memory as the forward pass kept, so here they come one by one, and whoever receives one may let it go.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge


def backward_to(
    total: Tensor, edges: Sequence[GradientEdge], first: Sequence[bool], receive: Callable[[int, Tensor], None]
) -> None:
    """Calls ``receive(i, gradient of total at edge i)`` for each edge on which ``total`` depends; the graph is kept.

    Args:
        total: a scalar.
        edges: where gradients are wanted: outputs of layers, and no parameters.
        first: of each edge, whether no other edge can be nearer to the network's input; only a hint, but the gradients
            of those are held until the end.
        receive: must not change the gradient.
    """
    received: set[int] = set()

    def give(index: int, gradient: Tensor | None) -> None:
        if gradient is not None and index not in received:
            received.add(index)
            receive(index, gradient)

    def hook(index: int, output: int) -> Callable[..., None]:
        return lambda gradients: give(index, gradients[output])

    def capture(wanted: Sequence[int]) -> None:
        if wanted:
            inputs = [edges[index] for index in wanted]
            captured = torch.autograd.grad(total, inputs, retain_graph=True, allow_unused=True)
            for index, gradient in zip(wanted, captured, strict=True):
                give(index, gradient)

    handles: list[Any] = []
    try:
        for index, edge in enumerate(edges):
            if not first[index]:
                handles.append(edge.node.register_prehook(hook(index, edge.output_nr)))
        capture([index for index in range(len(edges)) if first[index]])
    finally:
        for handle in handles:
            handle.remove()
    # What the pass did not run through: it is not on the way to an edge that was captured.
    capture([index for index in range(len(edges)) if index not in received and not first[index]])
