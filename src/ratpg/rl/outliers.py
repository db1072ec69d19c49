"""Observations so far outside that running statistics would not forget them."""

import math

import torch
from torch import Tensor

TIMES = 1e3
"""So many times as far out as others an entry must be."""
LEAST = 10.0
"""Entries that are nearer to the centre than this are never too far out."""
TIMES_OF_CONSTANT = 1e6
"""The same for a feature that has hardly varied, as times ``1 + |centre|``: an indicator is zero until it is seen for
the first time."""
HARDLY = 1e-4
"""A standard deviation that counts as none."""
SHARE = 0.99
"""The share of a batch that the farthest entries are compared with."""


def without_outliers(rows: Tensor, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor | None]:
    """Replaces entries that are too far out by the centre of their feature.

    An entry is too far out where it is `TIMES` as far from the centre as `SHARE` of its feature's entries in the batch,
    and as the standard deviation so far. More entries than the rest are no outliers: the policy may have reached other
    states.

    Args:
        rows: ``[N, d]``, float64, finite.
        mean, std: of the rows before, ``[d]``; a standard deviation of zero, everywhere, where there were none. The
            centre is then the batch's own median, which no outlier moves.

    Returns:
        The rows, themselves where nothing is replaced; and which entries were, bool ``[N, d]``, or None.
    """
    center = mean if bool((std > 0).any()) else rows.median(0).values
    distance = (rows - center).abs()
    suspects = (distance.amax(0) > (TIMES * std).clamp(min=LEAST)).nonzero().squeeze(1)
    if not len(suspects):
        return rows, None
    near, center_of = distance[:, suspects], center[suspects]
    rank = min(math.ceil(SHARE * len(rows)), len(rows) - 1)
    usual = near.kthvalue(rank, 0).values if rank else torch.zeros_like(center_of)
    spread = torch.maximum(usual, std[suspects])
    bound = torch.where(spread > HARDLY, (TIMES * spread).clamp(min=LEAST), TIMES_OF_CONSTANT * (1 + center_of.abs()))
    outside = torch.zeros_like(rows, dtype=torch.bool)
    outside[:, suspects] = near > bound
    if not outside.any():
        return rows, None
    return torch.where(outside, center, rows), outside
