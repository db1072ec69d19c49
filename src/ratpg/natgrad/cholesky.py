"""Cholesky factorisation out of matrix products."""

import torch
from torch import Tensor

from ratpg.natgrad.lower import LowerTriangle
from ratpg.natgrad.products import product, updated


class Cholesky:
    """``M = LLᵀ`` for a symmetric positive definite ``M [n, n]``.

    Right-looking by block columns, so that nearly all of the work is matrix products of what lies in one piece, over
    the lower triangle only: LAPACK's takes twice the time at n = 1024 on two cores.

    Args:
        matrix: ``M``, which is left as it is.
        shift: what is added to its diagonal first, ``[n]``, if anything. A matrix that needs it is nearly singular,
            and is factorised without the inverses of corners, which would round too much.

    Attributes:
        exists: whether every pivot is positive, a bool scalar on the device; otherwise the rest means nothing.
        pivots: the squared diagonal entries of ``L``, ``[n]``.
    """

    def __init__(self, matrix: LowerTriangle, shift: Tensor | None = None):
        self._corners: list[Tensor] = []
        self._below: list[Tensor] = []
        infos = []
        copy = matrix.copy()
        if shift is not None:
            copy.shift(shift)
        panels = copy.panels
        identity = torch.eye(panels[0].shape[1], dtype=panels[0].dtype, device=panels[0].device)  # as wide as any
        for index, panel in enumerate(panels):
            width = panel.shape[1]
            corner, info = torch.linalg.cholesky_ex(panel[:width])
            infos.append(info)
            below = panel[width:]
            if len(below):
                if shift is None:
                    below = product(below, torch.linalg.solve_triangular(corner, identity, upper=False))
                else:
                    below = torch.linalg.solve_triangular(corner.mT, below, upper=True, left=False).contiguous()
                first, negative = 0, -below
                for later in range(index + 1, len(panels)):
                    rows = negative[first : first + panels[later].shape[1]]
                    panels[later] = updated(panels[later], below[first:], rows)
                    first += len(rows)
            self._corners.append(corner)
            self._below.append(below)
        self.exists = (torch.stack(infos) == 0).all()
        self.pivots = torch.cat([corner.diagonal() for corner in self._corners]).square()

    def solve(self, rhs: Tensor) -> Tensor:
        """``M⁻¹ b`` for ``b [n]`` or ``[n, k]``.

        One column after the other, so that a solution is the same to the bit, whatever else is solved for with it.
        """
        columns = [self._solve(column) for column in (rhs if rhs.ndim == 2 else rhs[:, None]).split(1, 1)]
        return torch.cat(columns, 1).view_as(rhs)

    def _solve(self, rhs: Tensor) -> Tensor:
        rest, halves = rhs, []
        for corner, below in zip(self._corners, self._below, strict=True):
            here = torch.linalg.solve_triangular(corner, rest[: len(corner)], upper=False)
            halves.append(here)
            rest = rest[len(corner) :] - below @ here
        solution = rest  # of the rows below, none yet
        for corner, below, half in zip(self._corners[::-1], self._below[::-1], halves[::-1], strict=True):
            here = torch.linalg.solve_triangular(corner.mT, half - below.mT @ solution, upper=True)
            solution = torch.cat([here, solution])
        return solution

    def dense(self) -> Tensor:
        """``L``, ``[n, n]``."""
        panels = [torch.cat([corner, below]) for corner, below in zip(self._corners, self._below, strict=True)]
        size = len(panels[0])
        return torch.cat(
            [torch.cat([panel.new_zeros(size - len(panel), panel.shape[1]), panel]) for panel in panels], 1
        )
