"""The lower triangle of a symmetric matrix, in block columns that each lie in one piece."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ratpg.natgrad.workspace import Workspace

WIDTH = 192
"""Width of a block column on CPUs: wide enough for products at full speed, narrow enough that little is computed above
the diagonal."""
LAUNCHED_WIDTH = 4096
"""The same on GPUs, where what counts is how few kernels there are."""


class LowerTriangle:
    """The lower triangle of a symmetric ``[n, n]`` matrix.

    Block column ``j`` holds the rows from its diagonal block down, ``[n − start_j, width]``; above the diagonal of that
    block anything may stand. Many block columns take half of the operations of the whole, and products of what lies in
    one piece are the fast ones.

    Args:
        panels: the block columns, from the left.
    """

    def __init__(self, panels: Sequence[Tensor]):
        self.panels = list(panels)

    def __len__(self) -> int:
        return len(self.panels[0])

    @property
    def dtype(self) -> torch.dtype:
        """Of the entries."""
        return self.panels[0].dtype

    @classmethod
    def zeros(cls, like: Tensor, workspace: Workspace) -> "LowerTriangle":
        """Of size, dtype and device of ``like [n]``, in the workspace's memory."""
        size = len(like)
        shapes = [(size - start, stop - start) for start, stop in _bounds(like)]
        memory = workspace.take("lower triangle", (sum(rows * width for rows, width in shapes),), like).zero_()
        parts = memory.split([rows * width for rows, width in shapes])
        return cls([part.view(shape) for part, shape in zip(parts, shapes, strict=True)])

    @classmethod
    def of(cls, matrix: Tensor) -> "LowerTriangle":
        """A copy of the lower triangle of ``matrix [n, n]``."""
        return cls(
            [matrix[start:, start:stop].clone(memory_format=torch.contiguous_format) for start, stop in _bounds(matrix)]
        )

    def copy(self) -> "LowerTriangle":
        """In memory of its own."""
        return LowerTriangle([panel.clone() for panel in self.panels])

    def columns(self, width: int | None = None) -> Iterator[tuple[int, int, Tensor]]:
        """``start, stop`` and the columns between them, from the diagonal down, to be written to.

        Args:
            width: how many columns at most; None for whole block columns.
        """
        first = 0
        for panel in self.panels:
            end = first + panel.shape[1]
            step = width or panel.shape[1]
            for start in range(first, end, step):
                stop = min(start + step, end)
                yield start, stop, panel[start - first :, start - first : stop - first]
            first = end

    def scale(self, factors: Tensor) -> None:
        """``M ← SMS`` with ``S = diag(factors)``, ``[n]``."""
        for start, stop, part in self.columns():
            part.mul_(factors[start:, None]).mul_(factors[start:stop])

    def shift(self, amount: float | Tensor) -> None:
        """``M ← M + amount · I``, or ``M + diag(amount)`` for ``[n]``."""
        start = 0
        for panel in self.panels:
            stop = start + panel.shape[1]
            panel.diagonal().add_(amount[start:stop] if isinstance(amount, Tensor) and amount.ndim else amount)
            start = stop

    def diagonal(self) -> Tensor:
        """A copy of it, ``[n]``."""
        return torch.cat([panel.diagonal() for panel in self.panels])

    def dense(self) -> Tensor:
        """The symmetric matrix, ``[n, n]``."""
        matrix = self.panels[0].new_zeros(len(self), len(self))
        for start, stop, part in self.columns():
            matrix[start:, start:stop] = part
        return matrix.tril() + matrix.tril(-1).T


def _bounds(like: Tensor) -> list[tuple[int, int]]:
    size = len(like)
    width = WIDTH if like.device.type == "cpu" else LAUNCHED_WIDTH
    return [(start, min(start + width, size)) for start in range(0, max(size, 1), width)]
