"""The graph of a recorded pass: what of it decides whether the factors of one pass are those of the next, too."""

from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node

from ratpg.natgrad.errors import CaptureError

PUTTING = ("IndexPut", "IndexAdd", "IndexCopy", "IndexFill", "Scatter")
"""Beginnings of the names of operations that put values where an index says ..."""
PICKING = (*PUTTING, "Index", "Gather", "Sort", "Topk", "Take")
"""... and of these and of operations that pick by one."""


@dataclass(frozen=True)
class Structure:
    """A graph from ``log_prob [B]`` down to the parameters.

    Attributes:
        key: of operations, the way they are joined, and shapes; two passes with the same one may share a check.
        uses: parameter -> how many operations take it.
        nodes: all operations.
        moves: whether an index that the data decide may let samples change places, as in sorting by length: then what
            holds of one pass need not hold of the next. True also of masks, which leave samples where they are.
    """

    key: int
    uses: Counter[str]
    nodes: frozenset[Node]
    moves: bool


def structure_of(log_prob: Tensor, name_of: Mapping[int, str]) -> Structure:
    """Walks a graph.

    Args:
        log_prob: ``[B]``.
        name_of: ``id(parameter)`` -> name.

    Raises:
        CaptureError: where a trainable tensor is found that nobody handed over, and would be skipped silently.
    """
    samples, moves = len(log_prob), False
    operations, uses = list[Hashable](), Counter[str]()
    layouts: dict[Hashable, Hashable] = {}
    stack: list[Node | None] = [log_prob.grad_fn]
    seen: set[Node] = set()
    while stack:
        node = stack.pop()
        if node is None:
            continue
        leaf = getattr(node, "variable", None)
        name = None if leaf is None else name_of.get(id(leaf))
        if name is not None:
            uses[name] += 1
        if node in seen:
            continue
        seen.add(node)
        if leaf is None:
            shape = shape_of(node)
            if shape not in layouts:
                layouts[shape] = None if shape is None else tuple(_kind(size, samples) for size in shape)
            axes = (getattr(node, "_saved_dim", None), getattr(node, "_saved_dims", None))
            taken = tuple(number for _, number in node.next_functions)
            operations.append((node.name(), layouts[shape], taken, axes, getattr(node, "_saved_shifts", None)))
            moves = moves or _moves(node, samples)
        elif name is None:
            raise CaptureError(
                f"log_prob depends on a trainable tensor of shape {list(leaf.shape)} that AdvantageTransform was "
                "not given (a log_std kept outside the module?): hand the parameter over too, as in "
                "AdvantageTransform([actor, log_std]), or freeze it; detach inputs"
            )
        else:
            operations.append(name)
        stack.extend(next_node for next_node, _ in node.next_functions)
    return Structure(hash(tuple(operations)), uses, frozenset(seen), moves)


def shape_of(node: Node, number: int = 0) -> tuple[int, ...] | None:
    """Shape of an operation's output, None where that is not known: nested tensors have none."""
    outputs: Any = getattr(node, "_input_metadata", ())
    if number >= len(outputs) or outputs[number].is_nested_tensor:
        return None
    return tuple(outputs[number].shape)


def _kind(size: int, samples: int) -> str:
    """A size as far as a layout depends on it, so that lengths of sequences which vary are one structure: one, as many
    as samples ``B``, a multiple of that, or any other number."""
    if size in (1, samples):
        return "1" if size == 1 else "B"
    return "n" if size % samples else "kB"


def _moves(node: Any, samples: int) -> bool:
    """Whether an operation picks or puts along the samples, by an index that is not just ``0 … B − 1``."""
    name, (moved, number) = node.name(), node.next_functions[-1] if node.next_functions else (None, 0)
    puts = name.startswith(PUTTING)
    if not name.startswith(PICKING) or (puts and len(node.next_functions) < 2):
        return False
    if moved is None or hasattr(moved, "variable"):
        return False  # constants, and rows of a parameter
    shape = shape_of(node) if puts else shape_of(moved, number)
    if not shape:
        return shape is None
    if name.startswith(("IndexBackward", "IndexPut")):  # one index a dimension
        axis, (index, *_) = 0, node._saved_indices
        if index is None or _is_range(index):
            return False
    else:
        axis = getattr(node, "_saved_dim", 0)
        axis -= 2**64 if axis >= 2**63 else 0  # negative, as saved
    return bool(shape[axis] % samples == 0)


def _is_range(index: Tensor) -> bool:
    if index.is_cuda and torch.cuda.is_current_stream_capturing():
        return False  # it cannot be looked at
    if index.dtype == torch.bool or not index.ndim:
        return False
    return bool((index.reshape(len(index), -1) == torch.arange(len(index), device=index.device)[:, None]).all())
