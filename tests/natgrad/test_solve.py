"""The SPD solve: the blocked factorisation is LAPACK's, and each way out of a failure is taken and reported."""

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from ratpg.natgrad.cholesky import Cholesky
from ratpg.natgrad.lower import WIDTH, LowerTriangle
from ratpg.natgrad.solve import solve_spd, solve_spd_deferred

from .oracle import relative_error


def _spd(size: int, rank: int | None = None, dtype: torch.dtype = torch.float64) -> Tensor:
    """``RRᵀ/r`` for Gaussian ``R [n, r]``; of full rank and well conditioned by default."""
    generator = torch.Generator().manual_seed(size)
    rows = torch.randn(size, 2 * size if rank is None else rank, generator=generator, dtype=torch.float64)
    return (rows @ rows.T / rows.shape[1]).to(dtype)


def _vector(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


SIZES = [1, 5, WIDTH, WIDTH + 1, 128, 129, 300, 2 * WIDTH, 512]


@pytest.mark.parametrize("mkls", ["all", "none"])
@pytest.mark.parametrize("size", SIZES)
def test_blocked_factor_is_lapacks_in_float32(size: int, mkls: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ratpg.natgrad.products.mkls", mkls)  # which library the products are
    matrix = _spd(size, dtype=torch.float32)
    lower = LowerTriangle.of(matrix)
    assert relative_error(Cholesky(lower).dense().double(), torch.linalg.cholesky(matrix.double())) <= 1e-5
    assert torch.equal(lower.dense(), matrix)


@pytest.mark.parametrize("size", SIZES)
def test_blocked_factor_is_lapacks(size: int) -> None:
    matrix = _spd(size)
    factor, expected = Cholesky(LowerTriangle.of(matrix)), torch.linalg.cholesky(matrix)
    assert bool(factor.exists)
    assert relative_error(factor.dense(), expected) <= 1e-12
    assert_close(factor.pivots, expected.diagonal().square(), rtol=1e-10, atol=0)


def test_a_shift_is_added_to_the_diagonal_of_what_is_factorised() -> None:
    matrix, shift = _spd(300), _vector(300).square()
    lower = LowerTriangle.of(matrix)
    expected = torch.linalg.cholesky(matrix + torch.diag(shift))
    assert relative_error(Cholesky(lower, shift).dense(), expected) <= 1e-12
    assert torch.equal(lower.dense(), matrix)


def test_a_column_is_solved_the_same_whatever_stands_beside_it() -> None:
    matrix, rhs = _spd(200, dtype=torch.float32), _vector(200, 2, dtype=torch.float32)
    together = solve_spd(matrix, rhs).x
    for column in range(2):
        assert torch.equal(together[:, column], solve_spd(matrix, rhs[:, column]).x)


@pytest.mark.parametrize("bad", [0, 191, 192, 299])
def test_a_failed_factorisation_says_so(bad: int) -> None:
    matrix = _spd(300)
    matrix[bad, bad] = -1.0
    assert not bool(Cholesky(LowerTriangle.of(matrix)).exists)  # whichever block the negative pivot is in


@pytest.mark.parametrize("rank", [None, 20, 0])
def test_only_the_lower_triangle_is_read_and_nothing_is_overwritten(rank: int | None) -> None:
    matrix = _spd(200, rank) if rank != 0 else torch.zeros(200, 200, dtype=torch.float64)
    lower = matrix.tril() + torch.full_like(matrix, math.nan).triu(1)
    before = lower.clone()
    assert_close(solve_spd(lower, _vector(200)).x, solve_spd(matrix, _vector(200)).x, rtol=0, atol=0)
    assert_close(lower, before, rtol=0, atol=0, equal_nan=True)
    triangle = LowerTriangle.of(matrix)
    assert_close(solve_spd(triangle, _vector(200)).x, solve_spd(matrix, _vector(200)).x, rtol=0, atol=0)
    assert torch.equal(triangle.dense(), matrix.tril() + matrix.tril(-1).T)


@pytest.mark.parametrize("columns", [None, 1, 3])
@pytest.mark.parametrize("size", SIZES)
def test_positive_definite_systems_are_solved_by_cholesky(size: int, columns: int | None) -> None:
    matrix = _spd(size)
    rhs = _vector(size) if columns is None else _vector(size, columns)
    expected = torch.linalg.solve(matrix, rhs)
    solution = solve_spd(matrix.clone(), rhs)
    assert (solution.method, solution.jitter) == ("cholesky", 0.0)
    assert relative_error(solution.x, expected) <= 1e-10


@pytest.mark.parametrize("columns", [None, 2])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
@pytest.mark.parametrize(("size", "rank"), [(5, 2), (129, 20), (300, 280), (300, 299)])
def test_consistent_singular_systems_are_solved(
    size: int, rank: int, dtype: torch.dtype, tolerance: float, columns: int | None
) -> None:
    matrix = _spd(size, rank, dtype)
    rhs = matrix @ (_vector(size, dtype=dtype) if columns is None else _vector(size, columns, dtype=dtype))
    solution = solve_spd(matrix.clone(), rhs)
    # Rounding to float32 makes a matrix that lacks one rank regular, or not, as it falls out on a processor.
    if (dtype, rank) != (torch.float32, 299):
        assert solution.method in ("jitter", "eigh")
    assert (solution.jitter > 0) == (solution.method == "jitter")
    assert relative_error(matrix @ solution.x, rhs) <= tolerance


def test_jitter_is_small_and_is_what_the_solution_says() -> None:
    matrix = _spd(200, 50)
    null = torch.linalg.eigh(matrix).eigenvectors[:, 0]
    solution = solve_spd(matrix.clone(), null)
    assert solution.method == "jitter"
    assert 0 < solution.jitter <= 1e-12 * float(matrix.diagonal().max())
    # On the null space the jitter is all there is; the shifted matrix has a condition number near 1/ε.
    assert relative_error(solution.x * solution.jitter, null) <= 0.1


@pytest.fixture
def _every_warning() -> Iterator[None]:
    """PyTorch repeats its warnings: by default it gives each only once in a process."""
    torch.set_warn_always(True)
    yield
    torch.set_warn_always(False)


# The pytest settings let warnings about deprecated calls pass; the user would see them.
@pytest.mark.usefixtures("_every_warning")
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("columns", [None, 2])
@pytest.mark.parametrize("size", [4, 200])
def test_zero_matrix_has_the_zero_solution(size: int, columns: int | None) -> None:
    rhs = _vector(size) if columns is None else _vector(size, columns)
    solution = solve_spd(torch.zeros(size, size, dtype=torch.float64), rhs)
    assert solution.method == "eigh"
    assert torch.equal(solution.x, torch.zeros_like(rhs))


@pytest.mark.parametrize("least", [-1.0, -1e-3])
@pytest.mark.parametrize("columns", [None, 2])
def test_an_indefinite_matrix_is_refused(columns: int | None, least: float) -> None:
    basis, _ = torch.linalg.qr(_vector(200, 200))
    eigenvalues = torch.linspace(least, 2.0, 200, dtype=torch.float64)
    rhs = _vector(200) if columns is None else _vector(200, columns)
    for rows in (torch.ones(200), torch.logspace(-1, 1, 200)):
        matrix = rows[:, None] * (basis @ torch.diag(eigenvalues) @ basis.T) * rows
        with pytest.raises(ValueError, match="the matrix is indefinite: scaled to a unit diagonal"):
            solve_spd(matrix, rhs)


@pytest.mark.parametrize("matrix", [[[-1.0]], [[-1e-30]], [[0.0, 1.0], [1.0, 0.0]], [[1.0, 2.0], [2.0, 1.0]]])
def test_a_small_indefinite_matrix_is_refused(matrix: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="the matrix is indefinite"):
        solve_spd(torch.tensor(matrix), torch.ones(len(matrix)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("entry", [1e-30, 1e-20, 1.0, 1e30])
def test_a_single_entry_is_divided_by(entry: float, dtype: torch.dtype) -> None:
    solution = solve_spd(torch.tensor([[entry]], dtype=dtype), torch.tensor([3.0], dtype=dtype))
    assert solution.method == "cholesky"
    assert float(solution.x) == pytest.approx(3.0 / entry, rel=1e-6)


@pytest.mark.parametrize("shape", [(0,), (0, 3)])
def test_of_no_equations_the_solution_is_empty(shape: tuple[int, ...]) -> None:
    solution = solve_spd(torch.zeros(0, 0), torch.zeros(shape))
    assert (solution.x.shape, solution.method, solution.jitter) == (shape, "cholesky", 0.0)
    assert len(LowerTriangle.of(torch.zeros(0, 0))) == 0


@pytest.mark.parametrize(
    ("matrix", "rhs"),
    [
        (torch.float16, torch.float16),
        (torch.bfloat16, torch.bfloat16),
        (torch.int64, torch.int64),
        (torch.bool, torch.float32),
        (torch.complex64, torch.complex64),
        (torch.float64, torch.float32),
        (torch.float32, torch.int64),
    ],
)
def test_dtypes_in_which_nothing_is_solved_are_refused(matrix: torch.dtype, rhs: torch.dtype) -> None:
    with pytest.raises(ValueError, match=f"both be float32 or both float64, got {matrix} and {rhs}"):
        solve_spd(torch.eye(3).to(matrix), torch.ones(3).to(rhs))


def test_scaling_rows_by_powers_of_two_changes_no_bit() -> None:
    matrix, rhs = _spd(300, dtype=torch.float32), _vector(300, dtype=torch.float32)
    scale = 2.0 ** torch.randint(-20, 20, (300,), generator=torch.Generator().manual_seed(0))
    expected, found = solve_spd(matrix, rhs), solve_spd(scale[:, None] * matrix * scale, scale * rhs)
    assert found.method == expected.method == "cholesky"
    assert torch.equal(scale * found.x, expected.x)


def test_an_entry_of_zero_stands_alone() -> None:
    matrix = torch.zeros(200, 200, dtype=torch.float64)
    matrix[1:, 1:] = _spd(199)
    rhs = torch.cat([torch.ones(1, dtype=torch.float64), _vector(199)])
    solution = solve_spd(matrix, rhs)
    assert solution.method == "jitter"
    assert relative_error(solution.x[1:], torch.linalg.solve(matrix[1:, 1:], rhs[1:])) <= 1e-9


@pytest.mark.parametrize("deferred", [False, True])
def test_beside_one_large_entry_the_small_ones_are_jittered_by_their_own_size(deferred: bool) -> None:
    matrix = _spd(100, 20)  # λ = 0, and a null space
    matrix[0] *= 1e6
    matrix[:, 0] *= 1e6
    rhs = matrix @ _vector(100)
    if deferred:
        solution = solve_spd_deferred(LowerTriangle.of(matrix), rhs, 0.0)
        assert bool(solution.holds)
    else:
        solution = solve_spd(matrix, rhs)
        assert solution.method == "jitter"
    small = matrix.diagonal()[1:].max()
    assert relative_error((matrix @ solution.x)[1:], rhs[1:]) <= 1e-9
    assert 0 < float(solution.jitter) <= 1e-12 * float(matrix[0, 0])
    assert float((solution.x * float(solution.jitter))[1:].abs().max()) > float(small)  # that jitter is the large one's


def test_scaling_the_system_leaves_the_method() -> None:
    for scale in (1e-12, 1.0, 1e12):
        assert solve_spd(scale * _spd(150), _vector(150)).method == "cholesky"
        assert solve_spd(scale * _spd(150, 20), _vector(150)).method == "jitter"


def test_the_right_hand_side_is_left_as_it_was() -> None:
    for matrix in (_spd(5), _spd(5, 2), torch.zeros(5, 5, dtype=torch.float64)):
        rhs = _vector(5)
        solve_spd(matrix, rhs)
        assert torch.equal(rhs, _vector(5))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", [(0, 0), (199, 199), (3, 2), (190, 1)])
def test_matrix_that_is_not_finite_is_refused(value: float, where: tuple[int, int]) -> None:
    matrix = _spd(200)
    matrix[where] = matrix[where[::-1]] = value
    with pytest.raises(ValueError, match="not finite"):
        solve_spd(matrix, _vector(200))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_right_hand_side_that_is_not_finite_is_refused(value: float) -> None:
    rhs = _vector(5, 2)
    rhs[3, 1] = value
    with pytest.raises(ValueError, match="not finite"):
        solve_spd(_spd(5), rhs)


@pytest.mark.parametrize(
    ("matrix", "rhs"),
    [
        ((5, 4), (5,)),
        ((5,), (5,)),
        ((5, 5), (4,)),
        ((5, 5), (4, 5)),
        ((5, 5), ()),
        ((2, 5, 5), (2, 5)),
        ((5, 5), (5, 5, 2)),
    ],
)
def test_shapes_that_do_not_fit_are_refused(matrix: tuple[int, ...], rhs: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected"):
        solve_spd(torch.ones(matrix), torch.ones(rhs))
