"""Solves symmetric positive (semi-)definite systems, and says what happened.

Cholesky first, because ``λI + SKS`` is positive definite for λ > 0; a jittered diagonal where that fails
(λ = 0 and a rank-deficient ``K``); the eigendecomposition's minimum-norm solution where even that fails.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ratpg.natgrad.products import product
from ratpg.natgrad.workspace import Workspace

BLOCK = 128
"""Block size of the blocked Cholesky factorisation; smaller systems go to LAPACK whole."""
PANEL = 256
"""Width of the block columns in which what is left of the matrix is brought up to date."""


@dataclass(frozen=True)
class Solution:
    """A solution and how it was found.

    Attributes:
        x: the solution, shaped as the right-hand side.
        method: ``"cholesky"`` | ``"jitter"`` (Cholesky of ``M + jitter·I``) | ``"eigh"`` (pseudo-inverse).
        jitter: what was added to the diagonal; 0 unless ``method == "jitter"``.
        holds: of a deferred solution, whether it is one, a bool scalar on the device: False where the matrix was not
            positive definite or something was not finite, and then ``x`` is 0. None where that was looked at.
    """

    x: Tensor
    method: Literal["cholesky", "jitter", "eigh"]
    jitter: float = 0.0
    holds: Tensor | None = None


def solve_spd(matrix: Tensor, rhs: Tensor, workspace: Workspace | None = None) -> Solution:
    """Solves ``M x = b`` for symmetric positive semi-definite ``M``.

    Args:
        matrix: ``M [n, n]``, of which the lower triangle is read.
        rhs: ``b [n]`` or ``[n, k]``.
        workspace: gives the memory of the factor.

    Raises:
        ValueError: where the input is not finite or the shapes do not fit.
    """
    square = matrix.ndim == 2 and matrix.shape[0] == matrix.shape[1]
    if not square or rhs.ndim not in (1, 2) or rhs.shape[0] != matrix.shape[0]:
        raise ValueError(f"expected [n, n] and [n] or [n, k], got {list(matrix.shape)} and {list(rhs.shape)}")
    diagonal = matrix.diagonal()
    # A positive semi-definite matrix is bounded by its diagonal, so a finite diagonal and a successful
    # factorisation imply a finite matrix; anything else is looked at in full below.
    if not (diagonal.isfinite().all() and rhs.isfinite().all()):
        raise ValueError("the system is not finite: look for NaN or infinity in log-probabilities or advantages")
    smallest_pivot = _smallest_pivot(diagonal)
    workspace = workspace or Workspace()
    factor, exists = _factorise(matrix, smallest_pivot, workspace)
    if exists:
        return Solution(_back_substitute(factor, rhs), "cholesky")

    matrix = matrix.tril() + matrix.tril(-1).T
    if not matrix.isfinite().all():
        raise ValueError("the matrix is not finite: look for NaN or infinity in the recorded forward pass")
    jitter = 10 * float(smallest_pivot)
    if jitter > 0:
        factor, exists = _factorise(matrix + jitter * torch.eye(len(matrix)).to(matrix), smallest_pivot, workspace)
        if exists:
            return Solution(_back_substitute(factor, rhs), "jitter", jitter)

    eigenvalues, vectors = torch.linalg.eigh(matrix)
    cutoff = eigenvalues[-1].clamp(min=0) * len(matrix) * torch.finfo(matrix.dtype).eps
    inverse = torch.where(eigenvalues > cutoff, 1 / eigenvalues, 0.0)
    columns = rhs if rhs.ndim == 2 else rhs[:, None]
    return Solution((vectors @ (inverse[:, None] * (vectors.T @ columns))).view_as(rhs), "eigh")


def solve_spd_deferred(matrix: Tensor, rhs: Tensor, workspace: Workspace) -> Solution:
    """As `solve_spd`, by Cholesky alone and without a look at the result: the host does not wait for the device."""
    factor, exists = _factorise(matrix, _smallest_pivot(matrix.diagonal()), workspace)
    x = _back_substitute(factor, rhs)
    holds = exists & x.isfinite().all()
    return Solution(torch.where(holds, x, 0.0), "cholesky", holds=holds)


def cholesky(matrix: Tensor, workspace: Workspace) -> tuple[Tensor, Tensor]:
    """Cholesky factor ``L`` of the lower triangle of ``matrix``, and whether it exists (a bool scalar).

    Right-looking by block columns, so that nearly all of the work is matrix products of what lies in one piece, over
    the lower triangle only. The strict upper triangle of ``L`` is undefined.
    """
    if matrix.is_cuda:
        factor, info = torch.linalg.cholesky_ex(matrix)
        return factor, info == 0
    size = len(matrix)
    factor = workspace.take("cholesky", (size, size), matrix).copy_(matrix)
    infos = []
    for start in range(0, size, BLOCK):
        stop = min(start + BLOCK, size)
        corner, info = torch.linalg.cholesky_ex(factor[start:stop, start:stop])
        infos.append(info)
        factor[start:stop, start:stop] = corner
        if stop < size:
            identity = torch.eye(stop - start, dtype=matrix.dtype, device=matrix.device)
            inverse = torch.linalg.solve_triangular(corner, identity, upper=False)
            below = product(factor[stop:, start:stop].contiguous(), inverse)
            factor[stop:, start:stop] = below
            for column in range(stop, size, PANEL):
                rows = below[column - stop :]
                factor[column:, column : column + PANEL] -= product(rows, rows[:PANEL])
    return factor, (torch.stack(infos) == 0).all()


def _factorise(matrix: Tensor, smallest_pivot: Tensor, workspace: Workspace) -> tuple[Tensor, Tensor]:
    """The Cholesky factor, and whether the matrix is positive definite to working precision."""
    factor, exists = cholesky(matrix, workspace)
    return factor, exists & (factor.diagonal().min().square() > smallest_pivot)


def _smallest_pivot(diagonal: Tensor) -> Tensor:
    """Below this a pivot is rounding noise: random errors of relative size ε grow like √n."""
    return diagonal.max() * (len(diagonal) ** 0.5 * torch.finfo(diagonal.dtype).eps)


def _back_substitute(factor: Tensor, rhs: Tensor) -> Tensor:
    solved = []
    # One column after the other, so that a solution is the same to the bit, whatever else is solved for with it.
    for column in (rhs if rhs.ndim == 2 else rhs[:, None]).split(1, 1):
        # Two triangular solves read the factor as it lies; `cholesky_solve` would first transpose a copy of it.
        half = torch.linalg.solve_triangular(factor, column, upper=False)
        solved.append(torch.linalg.solve_triangular(factor.mT, half, upper=True))
    return torch.cat(solved, 1).view_as(rhs)
