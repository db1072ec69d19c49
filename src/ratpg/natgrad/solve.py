"""Solves symmetric positive (semi-)definite systems, and says what happened.

Cholesky first, because ``λI + SKS`` is positive definite for λ > 0; a jittered diagonal where that fails
(λ = 0 and a rank-deficient ``K``); the eigendecomposition's minimum-norm solution where even that fails.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

BLOCK = 64
"""Block size of the blocked Cholesky factorisation; smaller systems go to LAPACK whole."""


@dataclass(frozen=True)
class Solution:
    """A solution and how it was found.

    Attributes:
        x: the solution, shaped as the right-hand side.
        method: ``"cholesky"`` | ``"jitter"`` (Cholesky of ``M + jitter·I``) | ``"eigh"`` (pseudo-inverse).
        jitter: what was added to the diagonal; 0 unless ``method == "jitter"``.
    """

    x: Tensor
    method: Literal["cholesky", "jitter", "eigh"]
    jitter: float = 0.0


def solve_spd(matrix: Tensor, rhs: Tensor) -> Solution:
    """Solves ``M x = b`` for symmetric positive semi-definite ``M``, overwriting ``M``.

    Args:
        matrix: ``M [n, n]``, symmetric; both triangles are read, and its contents are lost.
        rhs: ``b [n]`` or ``[n, k]``.

    Raises:
        ValueError: where the input is not finite or the shapes do not fit.
    """
    square = matrix.ndim == 2 and matrix.shape[0] == matrix.shape[1]
    if not square or rhs.ndim not in (1, 2) or rhs.shape[0] != matrix.shape[0]:
        raise ValueError(f"expected [n, n] and [n] or [n, k], got {list(matrix.shape)} and {list(rhs.shape)}")
    diagonal = matrix.diagonal().clone()
    # A positive semi-definite matrix is bounded by its diagonal, so a finite diagonal and a successful
    # factorisation imply a finite matrix; anything else is looked at in full below.
    if not (diagonal.isfinite().all() and rhs.isfinite().all()):
        raise ValueError("the system is not finite: look for NaN or infinity in log-probabilities or advantages")
    if _factorise(matrix):
        return Solution(_back_substitute(matrix, rhs), "cholesky")

    _restore(matrix, diagonal)
    if not matrix.isfinite().all():
        raise ValueError("the matrix is not finite: look for NaN or infinity in the recorded forward pass")
    jitter = 10 * _smallest_pivot(diagonal)
    matrix.diagonal().add_(jitter)
    if jitter > 0 and _factorise(matrix):
        return Solution(_back_substitute(matrix, rhs), "jitter", jitter)

    _restore(matrix, diagonal)
    eigenvalues, vectors = torch.linalg.eigh(matrix)
    cutoff = eigenvalues[-1].clamp(min=0) * len(matrix) * torch.finfo(matrix.dtype).eps
    inverse = torch.where(eigenvalues > cutoff, 1 / eigenvalues, 0.0)
    columns = rhs if rhs.ndim == 2 else rhs[:, None]
    return Solution((vectors @ (inverse[:, None] * (vectors.T @ columns))).view_as(rhs), "eigh")


def cholesky_(matrix: Tensor) -> Tensor:
    """Cholesky factor ``L`` in the lower triangle of ``matrix``, in place; the strict upper triangle stays.

    Left-looking by block columns, so that nearly all of the work is matrix products over the lower triangle
    only: a third of LAPACK's time at n = 1024 on two cores.  Returns LAPACK's ``info`` (0 on success).
    """
    info = torch.zeros((), dtype=torch.int32, device=matrix.device)
    for start in range(0, len(matrix), BLOCK):
        stop = min(start + BLOCK, len(matrix))
        panel, done = matrix[start:, start:stop], matrix[start:, :start]
        upper = matrix[start:stop, start:stop].triu(1)
        if start:
            panel.addmm_(done, done[: stop - start].T, alpha=-1)
        lower, block_info = torch.linalg.cholesky_ex(panel[: stop - start])
        info = torch.maximum(info, block_info)
        if stop < len(matrix):
            identity = torch.eye(stop - start, dtype=matrix.dtype, device=matrix.device)
            inverse = torch.linalg.solve_triangular(lower, identity, upper=False)
            panel[stop - start :] = panel[stop - start :] @ inverse.T
        panel[: stop - start] = lower + upper
    return info


def _factorise(matrix: Tensor) -> bool:
    """Factorises in place; False where the matrix is not positive definite to working precision."""
    threshold = _smallest_pivot(matrix.diagonal())
    info = cholesky_(matrix)
    return bool((info == 0) & (matrix.diagonal().min().square() > threshold))


def _smallest_pivot(diagonal: Tensor) -> float:
    """Below this a pivot is rounding noise: random errors of relative size ε grow like √n."""
    return float(diagonal.max()) * len(diagonal) ** 0.5 * torch.finfo(diagonal.dtype).eps


def _back_substitute(factor: Tensor, rhs: Tensor) -> Tensor:
    columns = rhs if rhs.ndim == 2 else rhs[:, None]
    # Two triangular solves read the factor as it lies; `cholesky_solve` would first transpose a copy of it.
    half = torch.linalg.solve_triangular(factor, columns, upper=False)
    return torch.linalg.solve_triangular(factor.mT, half, upper=True).view_as(rhs)


def _restore(matrix: Tensor, diagonal: Tensor) -> None:
    """Undoes `cholesky_`, which leaves the strict upper triangle as it was."""
    upper = matrix.triu(1)
    matrix.copy_(upper + upper.T)
    matrix.diagonal().copy_(diagonal)
