"""Solves symmetric positive (semi-)definite systems, and says what happened.

Cholesky first, because ``λI + SKS`` is positive definite for λ > 0; a jittered diagonal where that fails
(a rank-deficient ``K``, and λ = 0 or below what rounding makes of ``SKS``); the eigendecomposition's minimum-norm
solution where even that fails.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ratpg.natgrad.cholesky import Cholesky
from ratpg.natgrad.errors import NotFinite
from ratpg.natgrad.lower import LowerTriangle

JITTER = 10
"""What is added to the diagonal, in units of the smallest pivot that is no rounding noise."""


@dataclass(frozen=True)
class Solution:
    """A solution and how it was found.

    Attributes:
        x: the solution, shaped as the right-hand side.
        method: ``"cholesky"`` | ``"jitter"`` (Cholesky of ``M + jitter·I``) | ``"eigh"`` (pseudo-inverse).
        jitter: what was added to the diagonal; 0 unless ``method == "jitter"``, and of a deferred solution a scalar on
            the device.
        holds: of a deferred solution, whether it is one, a bool scalar on the device: False where the matrix was not
            positive definite or something was not finite, and then ``x`` is 0. None where that was looked at.
    """

    x: Tensor
    method: Literal["cholesky", "jitter", "eigh"]
    jitter: float | Tensor = 0.0
    holds: Tensor | None = None


def solve_spd(matrix: Tensor | LowerTriangle, rhs: Tensor) -> Solution:
    """Solves ``M x = b`` for symmetric positive semi-definite ``M``.

    Args:
        matrix: ``M [n, n]``, of which the lower triangle is read.
        rhs: ``b [n]`` or ``[n, k]``.

    Raises:
        ValueError: where the shapes do not fit.
        NotFinite: where the input is not finite.
    """
    shape = [len(matrix)] * 2 if isinstance(matrix, LowerTriangle) else list(matrix.shape)
    if len(shape) != 2 or shape[0] != shape[1] or rhs.ndim not in (1, 2) or len(rhs) != shape[0]:
        raise ValueError(f"expected [n, n] and [n] or [n, k], got {shape} and {list(rhs.shape)}")
    if isinstance(matrix, Tensor):
        matrix = LowerTriangle.of(matrix)
    diagonal = matrix.diagonal()
    # A positive semi-definite matrix is bounded by its diagonal, so a finite diagonal and a successful
    # factorisation imply a finite matrix; anything else is looked at in full below.
    if not (diagonal.isfinite().all() and rhs.isfinite().all()):
        raise NotFinite("the system is not finite: look for NaN or infinity in log-probabilities or advantages")
    smallest_pivot = _smallest_pivot(diagonal)
    factor = Cholesky(matrix)
    if factor.exists & (factor.least_pivot > smallest_pivot):
        return Solution(factor.solve(rhs), "cholesky")

    dense = matrix.dense()
    if not dense.isfinite().all():
        raise NotFinite("the matrix is not finite: look for NaN or infinity in the recorded forward pass")
    jitter = JITTER * float(smallest_pivot)
    if jitter > 0:
        matrix = matrix.copy()
        matrix.shift(jitter)
        factor = Cholesky(matrix)
        if factor.exists & (factor.least_pivot > smallest_pivot):
            return Solution(factor.solve(rhs), "jitter", jitter)

    eigenvalues, vectors = torch.linalg.eigh(dense)
    cutoff = eigenvalues[-1].clamp(min=0) * len(dense) * torch.finfo(dense.dtype).eps
    inverse = torch.where(eigenvalues > cutoff, 1 / eigenvalues, 0.0)
    columns = rhs if rhs.ndim == 2 else rhs[:, None]
    return Solution((vectors @ (inverse[:, None] * (vectors.T @ columns))).view_as(rhs), "eigh")


def solve_spd_deferred(matrix: LowerTriangle, rhs: Tensor, damping: float) -> Solution:
    """As `solve_spd`, by Cholesky alone and without a look at the result: the host does not wait for the device.

    Args:
        matrix: ``M``, to whose diagonal the jitter is added.
        rhs: ``b``.
        damping: λ, the part of ``M``'s diagonal that keeps it positive definite; where it is less than the jitter would
            be, the jitter is added at once.
    """
    smallest_pivot = _smallest_pivot(matrix.diagonal())
    jitter = JITTER * smallest_pivot
    jitter = torch.where(jitter > damping, jitter, 0.0)
    matrix.shift(jitter)
    factor = Cholesky(matrix)
    x = factor.solve(rhs)
    holds = factor.exists & (factor.least_pivot > smallest_pivot) & x.isfinite().all()
    return Solution(torch.where(holds, x, 0.0), "cholesky", jitter, holds)


def _smallest_pivot(diagonal: Tensor) -> Tensor:
    """Below this a pivot is rounding noise: random errors of relative size ε grow like √n."""
    return diagonal.max() * (len(diagonal) ** 0.5 * torch.finfo(diagonal.dtype).eps)
