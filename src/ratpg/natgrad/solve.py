"""Solves symmetric positive (semi-)definite systems, and says what happened.

Cholesky first, because ``λI + SKS`` is positive definite for λ > 0. Where that fails the diagonal is jittered: ``K`` is
rank-deficient and λ is 0, or below what rounding makes of ``SKS``. Where even that fails the pseudo-inverse is taken.

Each pivot is judged by its own diagonal entry, so that a sample of large weight or score is no reason to raise λ for
the others. That is the judgement of the system scaled to a unit diagonal, ``D^{-1/2} M D^{-1/2}``. The scaling itself
is left out: a Cholesky factorisation rounds the same with and without it (van der Sluis 1969), to the bit where the
factors are powers of two.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ratpg.natgrad.cholesky import Cholesky
from ratpg.natgrad.errors import NotFinite
from ratpg.natgrad.lower import LowerTriangle

JITTER = 10
"""What is added to a diagonal entry, in units of the smallest pivot that is no rounding noise."""
COMMON = 30
"""Up to so many times the median entry's jitter all entries are given the same one."""


@dataclass(frozen=True)
class Solution:
    """A solution and how it was found.

    Attributes:
        x: the solution, shaped as the right-hand side.
        method: ``"cholesky"`` | ``"jitter"`` (Cholesky of ``M`` with a raised diagonal) | ``"eigh"`` (pseudo-inverse).
        jitter: the most that was added to a diagonal entry; 0 unless ``method == "jitter"``. Of a deferred solution it
            is a scalar on the device.
        holds: of a deferred solution, whether it is one, a bool scalar on the device. It is False where the matrix was
            not positive definite or something was not finite, and then ``x`` is 0. None for other solutions.
    """

    x: Tensor
    method: Literal["cholesky", "jitter", "eigh"]
    jitter: float | Tensor = 0.0
    holds: Tensor | None = None


def solve_spd(matrix: Tensor | LowerTriangle, rhs: Tensor, damping: float = 0.0) -> Solution:
    """Solves ``M x = b`` for symmetric positive semi-definite ``M``.

    Args:
        matrix: ``M [n, n]`` in float32 or float64, of which the lower triangle is read; it is left as it is.
        rhs: ``b [n]`` or ``[n, k]``, of the same dtype.
        damping: λ, what ``M``'s diagonal holds beside a semi-definite matrix; entries of which λ is more than rounding
            noise are not jittered.

    Raises:
        ValueError: for shapes or dtypes that do not fit, and for a matrix that is indefinite beyond rounding.
        NotFinite: for input with NaN or infinity.
    """
    shape = [len(matrix)] * 2 if isinstance(matrix, LowerTriangle) else list(matrix.shape)
    if len(shape) != 2 or shape[0] != shape[1] or rhs.ndim not in (1, 2) or len(rhs) != shape[0]:
        raise ValueError(f"expected [n, n] and [n] or [n, k], got {shape} and {list(rhs.shape)}")
    if matrix.dtype not in (torch.float32, torch.float64) or rhs.dtype != matrix.dtype:
        raise ValueError(
            f"matrix and right-hand side must both be float32 or both float64, got {matrix.dtype} and {rhs.dtype}: "
            "convert them with .float()"
        )
    if not len(rhs):
        return Solution(rhs.clone(), "cholesky")
    if isinstance(matrix, Tensor):
        matrix = LowerTriangle.of(matrix)
    diagonal = matrix.diagonal()
    # A positive semi-definite matrix is bounded by its diagonal, so a finite diagonal and a successful
    # factorisation imply a finite matrix; anything else is looked at in full below.
    if not (diagonal.isfinite().all() and rhs.isfinite().all()):
        raise NotFinite("the system is not finite: look for NaN or infinity in log-probabilities or advantages")
    factor = Cholesky(matrix)
    if _is_sound(factor, diagonal):
        return Solution(factor.solve(rhs), "cholesky")

    dense = matrix.dense()
    if not dense.isfinite().all():
        raise NotFinite("the matrix is not finite: look for NaN or infinity in the recorded forward pass")
    jitter = _jitter(diagonal, damping)
    factor = Cholesky(matrix, jitter)
    if _is_sound(factor, diagonal + jitter):
        return Solution(factor.solve(rhs), "jitter", float(jitter.max()))
    return Solution(_pseudo_inverse(dense, rhs), "eigh")


def solve_spd_deferred(matrix: LowerTriangle, rhs: Tensor, damping: float) -> Solution:
    """As `solve_spd`, by Cholesky alone and without a look at the result: the host does not wait for the device.

    Args:
        matrix: ``M``, which is left as it is.
        rhs: ``b``.
        damping: λ, the part of ``M``'s diagonal that keeps it positive definite; an entry's jitter is added at once
            where it is more than λ.
    """
    diagonal = matrix.diagonal()
    jitter = _jitter(diagonal, damping)
    factor = Cholesky(matrix, jitter)
    x = factor.solve(rhs)
    # Where λ lifts most entries, nobody knows whether the others needed their jitter: one step of iterative refinement
    # takes most of it back.
    excess = torch.where((jitter == 0).any(), jitter, 0.0)
    x = x + factor.solve(excess * x if x.ndim == 1 else excess[:, None] * x)
    holds = _is_sound(factor, diagonal + jitter) & x.isfinite().all()
    return Solution(torch.where(holds, x, 0.0), "cholesky", jitter.max(), holds)


def _noise(diagonal: Tensor) -> float:
    """Below this share of its diagonal entry a pivot is rounding noise: random errors of size ε grow like √n."""
    return len(diagonal) ** 0.5 * torch.finfo(diagonal.dtype).eps


def _is_sound(factor: Cholesky, diagonal: Tensor) -> Tensor:
    """Whether the factorisation of a matrix with this diagonal exists and no pivot is noise, a bool scalar."""
    return factor.exists & (factor.pivots > _noise(diagonal) * diagonal).all()


def _jitter(diagonal: Tensor, damping: float) -> Tensor:
    """What lifts every pivot above rounding noise, ``[n]``; 0 for entries that λ lifts already.

    Jitter in proportion to the entries is the least that will do, and leaves small entries alone beside a large one.
    But it weights the samples anew, which matters where λ is noise for most of them: what is left then is a fit by
    least squares. There the typical entries are given one jitter in common, which acts as a larger λ.
    """
    # A zero entry stands alone, for its row is zero too: any jitter will do.
    own = torch.where(diagonal > 0, diagonal, diagonal.max()) * (JITTER * _noise(diagonal))
    median = own.sort().values[(len(own) - 1) // 2]
    common = torch.where(median > damping, (COMMON * median).minimum(own.max()), 0.0)
    return torch.where(own > damping, own, 0.0).maximum(common)


def _pseudo_inverse(matrix: Tensor, rhs: Tensor) -> Tensor:
    """``D^{-1/2} (D^{-1/2} M D^{-1/2})⁺ D^{-1/2} b``, with ``D`` the diagonal of ``M [n, n]``.

    Raises:
        ValueError: where an eigenvalue of the scaled matrix is negative beyond rounding.
    """
    diagonal = matrix.diagonal()
    scale = torch.where(diagonal > 0, diagonal, diagonal.abs().max()).rsqrt()
    scale = torch.where(scale.isfinite(), scale, 1.0)  # all entries are zero
    eigenvalues, vectors = torch.linalg.eigh(scale[:, None] * matrix * scale)
    # Of a matrix of correlated rows the largest eigenvalue is n, and the others are as exact as it is.
    least = float(eigenvalues[0])
    bound = JITTER * max(_noise(diagonal), torch.finfo(matrix.dtype).eps * float(eigenvalues[-1]))
    if least < -bound:
        raise ValueError(
            f"the matrix is indefinite: scaled to a unit diagonal its least eigenvalue is {least:.2g}, and rounding "
            f"explains -{bound:.1g}; hand over a Gram matrix plus damping, in full precision"
        )
    inverse = torch.where(eigenvalues > bound, 1 / eigenvalues, 0.0)
    columns = scale[:, None] * (rhs if rhs.ndim == 2 else rhs[:, None])
    return (scale[:, None] * (vectors @ (inverse[:, None] * (vectors.T @ columns)))).view_as(rhs)
