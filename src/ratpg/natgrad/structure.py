"""The graph of a recorded pass: what of it decides whether the factors of one pass are those of the next, too."""

from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import Node

from ratpg.natgrad.errors import CaptureError


@dataclass(frozen=True)
class Structure:
    """A graph from ``log_prob [B]`` down to the parameters.

    Attributes:
        key: operations and shapes in the order of a walk; two passes with the same one may share a check.
        uses: parameter -> how many operations take it.
        nodes: all operations.
        moves: whether samples may change places by an order that the data decide, as in sorting by length: then what
            holds of one pass need not hold of the next.
    """

    key: Hashable
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
            shapes = (given.shape for given in getattr(node, "_input_metadata", ()))
            operations.append((node.name(), *(tuple(_kind(size, samples) for size in shape) for shape in shapes)))
            moves = moves or _moves(node)
        elif name is None:
            raise CaptureError(
                f"log_prob depends on a trainable tensor of shape {list(leaf.shape)} that AdvantageTransform was "
                "not given (a log_std kept outside the module?): hand the parameter over too, as in "
                "AdvantageTransform([actor, log_std]), or freeze it; detach inputs"
            )
        else:
            operations.append(name)
        stack.extend(next_node for next_node, _ in node.next_functions)
    return Structure(tuple(operations), uses, frozenset(seen), moves)


def _kind(size: int, samples: int) -> str:
    """A size as far as a layout depends on it, so that lengths of sequences which vary are one structure."""
    if size in (1, samples):
        return "1" if size == 1 else "B"
    return "n" if size % samples else "kB"


def _moves(node: Node) -> bool:
    """Whether an operation picks along the dimension of the samples, by an index that is not just ``0 … B − 1``."""
    index = getattr(node, "_saved_indices", getattr(node, "_saved_index", None))
    if index is None or all(taken is None or hasattr(taken, "variable") for taken, _ in node.next_functions):
        return False  # of parameters, as embeddings do
    if isinstance(index, tuple):  # as x[index] has them, one a dimension
        return index[0] is not None and not _is_range(index[0].flatten())
    dimension = getattr(node, "_saved_dim", 0)
    if dimension >= 2**63:  # negative, as saved
        axes = len(node._input_metadata[0].shape) + (not getattr(node, "_saved_keepdim", True))
        dimension += axes - 2**64
    return bool(dimension <= 0)


def _is_range(index: Tensor) -> bool:
    if index.is_cuda and torch.cuda.is_current_stream_capturing():
        return False  # nothing can be looked at
    return torch.equal(index, torch.arange(len(index)).to(index))
