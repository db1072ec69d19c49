"""Many small kernels launched as one."""

from collections.abc import Callable

import torch
from torch import Tensor

from ratpg.rl.policy import ActorCritic

Launch = Callable[..., tuple[Tensor, ...]]
WARM_UP = 3
"""Calls with new shapes that run as they are, before one is captured: they make the libraries' handles and buffers."""


def launched(policy: ActorCritic, step: Launch) -> Launch:
    """A step on a mini-batch of this policy, launched as one where that pays.

    The kernels of perceptrons take longer to launch than to run. Those of images fill a GPU, and sequences come in
    too many shapes.
    """
    return Graphed(step) if policy.spec.network == "mlp" and not policy.spec.lstm else step


class Graphed:
    """A function of tensors that is launched as a CUDA graph, one for each set of shapes it is called with.

    On other devices it is called as it is. On CUDA it must not wait for the device, nor depend on anything on the host
    that changes between calls; what it changes in place stays where it is.

    Args:
        function: tensors, all on one device -> tensors.
    """

    def __init__(self, function: Launch):
        self._function = function
        self._calls: dict[tuple[torch.Size, ...], int] = {}
        self._captured: dict[
            tuple[torch.Size, ...], tuple[torch.cuda.CUDAGraph, tuple[Tensor, ...], tuple[Tensor, ...]]
        ] = {}

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        if not inputs[0].is_cuda:
            return self._function(*inputs)
        shapes = tuple(tensor.shape for tensor in inputs)
        self._calls[shapes] = self._calls.get(shapes, 0) + 1
        if self._calls[shapes] <= WARM_UP:
            return self._warm_up(inputs)
        if shapes not in self._captured:
            graph, held = torch.cuda.CUDAGraph(), tuple(tensor.clone() for tensor in inputs)
            with torch.cuda.graph(graph):
                outputs = self._function(*held)
            self._captured[shapes] = graph, held, outputs
        graph, held, outputs = self._captured[shapes]
        for ours, given in zip(held, inputs, strict=True):
            ours.copy_(given)
        graph.replay()
        return tuple(tensor.clone() for tensor in outputs)  # the next replay writes over them

    def _warm_up(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """On a stream of its own, as capturing asks for."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            outputs = self._function(*inputs)
        torch.cuda.current_stream().wait_stream(stream)
        return outputs
