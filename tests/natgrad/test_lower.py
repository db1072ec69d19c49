"""The lower triangle in block columns is the matrix it was made from."""

import pytest
import torch
from torch import Tensor

from ratpg.natgrad.lower import WIDTH, LowerTriangle
from ratpg.natgrad.workspace import Workspace

SIZES = [1, 7, WIDTH, WIDTH + 1, 3 * WIDTH - 5]


def _symmetric(size: int) -> Tensor:
    matrix = torch.randn(size, size, generator=torch.Generator().manual_seed(size), dtype=torch.float64)
    return matrix + matrix.T


@pytest.mark.parametrize("size", SIZES)
def test_a_copy_is_the_matrix_and_its_memory_its_own(size: int) -> None:
    matrix = _symmetric(size)
    lower = LowerTriangle.of(matrix)
    before = matrix.clone()
    assert len(lower) == size
    assert torch.equal(lower.dense(), matrix)
    assert torch.equal(lower.diagonal(), matrix.diagonal())
    lower.shift(1.0)
    assert torch.equal(matrix, before)


@pytest.mark.parametrize("width", [None, 1, 50, 10 * WIDTH])
@pytest.mark.parametrize("size", SIZES)
def test_the_columns_cover_the_triangle_once(size: int, width: int | None) -> None:
    lower = LowerTriangle.zeros(torch.zeros(size, dtype=torch.float64), Workspace())
    edge = 0
    for start, stop, part in lower.columns(width):
        assert start == edge and part.shape == (size - start, stop - start)
        assert width is None or stop - start <= width
        part += 1.0
        edge = stop
    assert edge == size
    assert torch.equal(lower.dense(), torch.ones(size, size, dtype=torch.float64))


@pytest.mark.parametrize("size", SIZES)
def test_scaling_and_shifting(size: int) -> None:
    matrix, factors = _symmetric(size), torch.linspace(0.5, 2.0, size, dtype=torch.float64)
    lower = LowerTriangle.of(matrix)
    lower.scale(factors)
    lower.shift(0.25)
    lower.shift(factors)
    expected = matrix * torch.outer(factors, factors) + torch.diag(0.25 + factors)
    torch.testing.assert_close(lower.dense(), expected, rtol=1e-14, atol=1e-14)


def test_zeros_are_zero_in_memory_that_was_used_before() -> None:
    workspace, like = Workspace(), torch.zeros(2 * WIDTH)
    LowerTriangle.zeros(like, workspace).shift(3.0)
    assert not LowerTriangle.zeros(like, workspace).dense().any()
