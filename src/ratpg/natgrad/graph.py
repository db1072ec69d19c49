"""The autograd graph of a recorded pass: which operations it has, and which leaves."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from ratpg.natgrad.errors import CaptureError


@dataclass(frozen=True)
class Graph:
    """The operations from ``log_prob [B]`` down to the parameters.

    Attributes:
        nodes: all operations.
        rounding: parameter -> machine epsilon of the coarsest number format between it and ``log_prob``.
    """

    nodes: frozenset[Node]
    rounding: dict[str, float]

    @staticmethod
    def of(log_prob: Tensor, name_of: Mapping[int, str] | None) -> "Graph":
        """Walks a graph.

        Args:
            log_prob: ``[B]``.
            name_of: ``id(parameter)`` -> name; None for a graph that needs no look, which is empty.

        Raises:
            CaptureError: where a trainable tensor is found that nobody handed over, and would be skipped silently;
                where activations are checkpointed in the reentrant way.
        """
        coarsest, rounding = dict[Node, float](), dict[str, float]()
        waiting = [] if name_of is None or log_prob.grad_fn is None else [(log_prob.grad_fn, 0.0)]
        while waiting:
            node, above = waiting.pop()
            eps = max(above, _rounding_of(node))
            if coarsest.get(node, -1.0) >= eps:
                continue
            coarsest[node] = eps
            leaf = getattr(node, "variable", None)
            name = None if leaf is None or name_of is None else name_of.get(id(leaf))
            if name is not None:
                rounding[name] = max(eps, rounding.get(name, 0.0))
            elif leaf is not None:
                _refuse_unknown(leaf, len(log_prob))
            if node.name() == "CheckpointFunctionBackward":
                raise CaptureError(
                    "activations are checkpointed in the reentrant way, which gives no gradients of layers: call "
                    "torch.utils.checkpoint.checkpoint with use_reentrant=False"
                )
            waiting.extend((following, eps) for following, _ in node.next_functions if following is not None)
        return Graph(frozenset(coarsest), rounding)


def shape_of(node: Node) -> tuple[int, ...] | None:
    """Shape of an operation's first output; None where it has none, as nested tensors."""
    outputs: Any = getattr(node, "_input_metadata", ())
    return None if not outputs or outputs[0].is_nested_tensor else tuple(outputs[0].shape)


def _rounding_of(node: Node) -> float:
    outputs: Any = getattr(node, "_input_metadata", ())
    formats = [output.dtype for output in outputs if output.dtype.is_floating_point]
    return max((torch.finfo(dtype).eps for dtype in formats), default=0.0)


def _refuse_unknown(leaf: Tensor, samples: int) -> None:
    """Refuses a leaf that nobody handed over, but for inputs and activations that were made to require a gradient:
    these are no `nn.Parameter`, and their leading dimensions can hold a row a sample."""
    rows = [math.prod(leaf.shape[:axis]) for axis in range(1, leaf.ndim + 1)]
    if isinstance(leaf, nn.Parameter) or not any(count % samples == 0 for count in rows):
        raise CaptureError(
            f"log_prob depends on a trainable tensor of shape {list(leaf.shape)} that AdvantageTransform was "
            "not given (a log_std kept outside the module?): hand the parameter over too, as in "
            "AdvantageTransform([actor, log_std]), or freeze it; detach inputs"
        )
