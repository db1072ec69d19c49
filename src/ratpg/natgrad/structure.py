"""The graph of a recorded pass: what of it decides whether the factors of one pass are those of the next, too."""

from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

from torch import Tensor
from torch.autograd.graph import Node

from ratpg.natgrad.errors import CaptureError
from ratpg.natgrad.operations import may_move, part_of, shape_of


@dataclass(frozen=True)
class Structure:
    """A graph from ``log_prob [B]`` down to the parameters.

    Attributes:
        key: of operations, the way they are joined, and shapes; two passes with the same one may share a check.
        uses: parameter -> how many operations take it.
        nodes: all operations.
        moves: whether the data may decide where a sample stands, as in sorting by length: then what holds of one pass
            need not hold of the next. True also of operations that are not known, and of masks that do not let all
            samples through.
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
    seen: dict[Node, int] = {}
    while stack:
        node = stack.pop()
        if node is None:
            continue
        leaf = getattr(node, "variable", None)
        name = None if leaf is None else name_of.get(id(leaf))
        if name is not None:
            uses[name] += 1
        if node in seen:
            operations.append(seen[node])
            continue
        seen[node] = len(seen)
        if leaf is None:
            shape = shape_of(node)
            if shape not in layouts:
                layouts[shape] = None if shape is None else tuple(_kind(size, samples) for size in shape)
            axes = (getattr(node, "_saved_dim", None), getattr(node, "_saved_dims", None))
            taken = tuple(number for _, number in node.next_functions)
            operations.append((node.name(), layouts[shape], taken, axes, part_of(node, samples)))
            moves = moves or may_move(node, samples)
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


def _kind(size: int, samples: int) -> str:
    """A size as far as a layout depends on it, so that lengths of sequences which vary are one structure: one, as many
    as samples ``B``, a multiple of that, or any other number."""
    if size in (1, samples):
        return "1" if size == 1 else "B"
    return "n" if size % samples else "kB"
