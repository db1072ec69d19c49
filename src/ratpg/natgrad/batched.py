"""Rows of what no layer's factor covers, by batched vector-Jacobian products: slower, never wrong."""

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from ratpg.natgrad.errors import CaptureError
from ratpg.natgrad.factors import DenseFactor, Factor

VJP_CHUNK_BYTES = 256 * 2**20
"""Budget for the cotangents and rows of one chunk of batched vector-Jacobian products, in bytes."""


def batched_factors(log_prob: Tensor, parameters: Mapping[str, Tensor]) -> list[Factor]:
    """The rows of some parameters, a chunk of samples at a time.

    Args:
        log_prob: ``[B]``, with its graph, which is kept.
        parameters: name -> parameter.

    Raises:
        CaptureError: where ``log_prob`` does not depend on one of them.
    """
    samples = len(log_prob)
    row_bytes = (samples + sum(p.numel() for p in parameters.values())) * log_prob.element_size()
    chunk = max(1, VJP_CHUNK_BYTES // row_bytes)
    identity = torch.eye(samples, dtype=log_prob.dtype, device=log_prob.device)
    rows: dict[str, list[Tensor]] = {name: [] for name in parameters}
    for cotangents in identity.split(chunk):
        found = _rows(log_prob, list(parameters.values()), cotangents)
        for (name, collected), part in zip(rows.items(), found, strict=True):
            if part is None:
                raise CaptureError(
                    f"log_prob does not depend on the trainable parameter '{name}': freeze it, "
                    "or hand AdvantageTransform only the modules that log_prob depends on"
                )
            collected.append(part.to_dense() if part.is_sparse else part)
    return [DenseFactor(torch.cat(parts), name, "rows, by batched products") for name, parts in rows.items()]


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
