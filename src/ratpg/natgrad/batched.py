"""Rows of what no layer's factor covers, by batched vector-Jacobian products: slower, never wrong."""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.autograd.graph import Node

from ratpg.natgrad.errors import CaptureError
from ratpg.natgrad.factors import DenseFactor, Factor
from ratpg.natgrad.graph import shape_of
from ratpg.natgrad.plan import BATCHED

VJP_CHUNK_BYTES = 256 * 2**20
"""Budget for one chunk of batched vector-Jacobian products, in bytes: cotangents, rows, and what is between them."""
ROWS_BYTES = 2**30
"""Where the rows of all parameters take more than this, in bytes, they are found for some parameters at a time."""
ALIVE = 4
"""Gradients of the size of the largest that a backward pass holds at a time (3.6 were seen with convolutions)."""


def batched_factors(log_prob: Tensor, parameters: Mapping[str, Tensor]) -> list[Factor]:
    """The rows of some parameters, a chunk of samples at a time.

    Args:
        log_prob: ``[B]``, with its graph, which is kept.
        parameters: name -> parameter.

    Raises:
        CaptureError: where ``log_prob`` does not depend on one of them.
    """
    samples = len(log_prob)
    entries = samples + sum(p.numel() for p in parameters.values()) + ALIVE * _largest_gradient(log_prob)
    chunk = max(1, VJP_CHUNK_BYTES // (entries * log_prob.element_size()))
    identity = torch.eye(samples, dtype=log_prob.dtype, device=log_prob.device)
    rows = {name: log_prob.new_empty(samples, *p.shape) for name, p in parameters.items()}
    for start in range(0, samples, chunk):
        part = slice(start, start + chunk)
        found = _rows(log_prob, list(parameters.values()), identity[part])
        for (name, whole), values in zip(rows.items(), found, strict=True):
            if values is None:
                raise CaptureError(
                    f"log_prob does not depend on the trainable parameter '{name}': freeze it, "
                    "or hand AdvantageTransform only the modules that log_prob depends on"
                )
            whole[part] = values.to_dense() if values.is_sparse else values
    return [DenseFactor(whole, name, BATCHED) for name, whole in rows.items()]


def groups(parameters: Mapping[str, Tensor], log_prob: Tensor) -> Iterator[dict[str, Tensor]]:
    """The parameters in parts whose rows take `ROWS_BYTES` at most, as long as no single one's take more."""
    group, held = dict[str, Tensor](), 0
    for name, parameter in parameters.items():
        size = len(log_prob) * parameter.numel() * log_prob.element_size()
        if group and held + size > ROWS_BYTES:
            yield group
            group, held = {}, 0
        group[name] = parameter
        held += size
    if group:
        yield group


def _largest_gradient(log_prob: Tensor) -> int:
    """Entries of the largest gradient on the way through a graph: each vector has its own, of the whole batch."""
    largest, seen, waiting = 0, set[Node](), [log_prob.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            largest = max(largest, math.prod(shape_of(node) or ()))
            waiting.extend(following for following, _ in node.next_functions)
    return largest


def _rows(log_prob: Tensor, parameters: Sequence[Tensor], cotangents: Tensor) -> Sequence[Tensor | None]:
    """``cotangents @ H`` for each parameter, ``[n, *shape]``, None where ``log_prob`` does not depend on it: batched,
    or one by one where vmap has no rule."""
    grad = partial(torch.autograd.grad, log_prob, parameters, retain_graph=True, allow_unused=True)
    try:
        return grad(cotangents, is_grads_batched=True)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:
        single = [grad(v) for v in cotangents]
        return [None if parts[0] is None else torch.stack(parts) for parts in zip(*single, strict=True)]
