"""Solvers on random matrices: any spectrum, size and precision, rows over many orders of magnitude, λ from 0 up."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.errors import InvalidArgument
from torch import Tensor

from ratpg.natgrad.fisher import Stop, conjugate_gradient
from ratpg.natgrad.lower import WIDTH, LowerTriangle
from ratpg.natgrad.solve import JITTER, solve_spd, solve_spd_deferred

try:
    LONG = settings.get_profile("slow")
except InvalidArgument:  # no profiles are registered for the whole suite
    settings.register_profile("default", deadline=None, derandomize=True, max_examples=40, database=None)
    settings.register_profile("slow", deadline=None, max_examples=1000, database=None)
    settings.load_profile("default")
    LONG = settings.get_profile("slow")


@dataclass(frozen=True)
class System:
    """``(λI + S K S) x = b`` in the precision in which it is solved; ``K`` has eigenvalues over ``decades`` and a rank.

    ``S`` is of powers of two, so that it rounds nothing.
    """

    gram: Tensor
    scale: Tensor
    damping: float
    rhs: Tensor

    @property
    def matrix(self) -> Tensor:
        return self.scale[:, None] * self.gram * self.scale + self.damping * torch.eye(len(self.gram)).to(self.gram)

    @property
    def noise(self) -> float:
        """The share of a diagonal entry that is rounding noise."""
        return len(self.gram) ** 0.5 * torch.finfo(self.gram.dtype).eps

    @property
    def condition(self) -> float:
        """Of the matrix scaled to a unit diagonal, in float64."""
        return float(torch.linalg.cond(unit(self.matrix.double())))


def unit(matrix: Tensor, diagonal: Tensor | None = None) -> Tensor:
    """``D^{-1/2} M D^{-1/2}``, with the matrix's own diagonal or another."""
    root = (matrix.diagonal() if diagonal is None else diagonal).sqrt()
    return matrix / root[:, None] / root


@st.composite
def systems(draw: st.DrawFn) -> System:
    size = draw(st.sampled_from([1, 2, 3, 5, 12, 40, WIDTH + 8]))
    rank = draw(st.integers(1, size))
    decades, spread = draw(st.integers(0, 12)), draw(st.integers(0, 20))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    damping = draw(st.sampled_from([0.0, 1e-8, 1e-4, 0.1, 10.0]))
    columns = draw(st.sampled_from([None, 1, 3]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    eigenvalues = torch.logspace(0, -decades, rank, dtype=torch.float64)
    basis = torch.linalg.qr(normal(size, rank))[0]
    scale = 2.0 ** torch.randint(-spread, spread + 1, (size,), generator=generator)
    rhs = normal(size) if columns is None else normal(size, columns)
    rhs = rhs * (scale if columns is None else scale[:, None])  # as S y is
    half = basis * eigenvalues.sqrt()
    return System((half @ half.T).to(dtype), scale.to(dtype), damping, rhs.to(dtype))


def rows(vector: Tensor, like: Tensor) -> Tensor:
    """To be multiplied with ``like [n]`` or ``[n, k]``."""
    return vector if like.ndim == 1 else vector[:, None]


def a_regular_system_is_solved_by_cholesky(system: System) -> None:
    condition = system.condition
    if condition > 0.01 / system.noise:
        return
    solution = solve_spd(system.matrix, system.rhs, system.damping)
    assert (solution.method, solution.jitter) == ("cholesky", 0.0)
    root = system.matrix.diagonal().double().sqrt()
    scaled = system.rhs.double() / rows(root, system.rhs)
    expected = torch.linalg.solve(unit(system.matrix.double()), scaled)
    found = solution.x.double() * rows(root, solution.x)
    assert float((found - expected).norm()) <= 10 * system.noise * condition * float(expected.norm())


def scaling_by_powers_of_two_changes_no_bit(system: System) -> None:
    damped = system.gram + system.damping * torch.eye(len(system.gram)).to(system.gram)
    scale = rows(system.scale, system.rhs)
    expected = solve_spd(damped, system.rhs / scale)
    found = solve_spd(system.scale[:, None] * damped * system.scale, system.rhs)
    assert (found.method == "cholesky") == (expected.method == "cholesky")
    if found.method == "cholesky":
        assert torch.equal(scale * found.x, expected.x)


def a_semi_definite_matrix_is_solved_with_little_jitter_at_most(system: System) -> None:
    solution = solve_spd(system.matrix, system.rhs, system.damping)
    assert solution.x.isfinite().all()
    largest = float(system.matrix.diagonal().max())
    assert 0 <= solution.jitter <= 1.001 * JITTER * system.noise * largest
    assert (solution.jitter > 0) == (solution.method == "jitter")


def what_can_be_reached_is_reached(system: System) -> None:
    """A singular system whose right-hand side is in the range, rows of one size."""
    gram = System(system.gram, torch.ones_like(system.scale), 0.0, system.rhs)
    rhs = gram.matrix @ (system.rhs / rows(system.scale, system.rhs))
    solution = solve_spd(gram.matrix, rhs)
    error = (gram.matrix.double() @ solution.x.double() - rhs.double()).norm()
    size = gram.matrix.double().norm() * solution.x.double().norm()
    assert float(error) <= 10 * JITTER * gram.noise * float(size)


def a_deferred_solution_is_the_solution(system: System) -> None:
    matrix = system.matrix
    deferred = solve_spd_deferred(LowerTriangle.of(matrix), system.rhs, system.damping)
    found = solve_spd(matrix, system.rhs, system.damping)
    assert deferred.holds is not None
    assert deferred.x.isfinite().all()
    assert bool(deferred.holds) or found.method == "eigh"
    if not bool(deferred.jitter):
        root = rows(matrix.diagonal().sqrt(), found.x)
        error = float((root * (deferred.x - found.x)).norm()) / float((root * found.x).norm())
        assert error <= 10 * system.noise * system.condition


def an_indefinite_matrix_is_refused(system: System) -> None:
    """Along one vector the matrix is made as negative as it was positive along any."""
    matrix = unit(system.matrix.double())
    vector = (system.rhs.double() / rows(system.scale, system.rhs)).reshape(len(matrix), -1)[:, 0]
    vector = vector / vector.norm()
    matrix = matrix - 2 * torch.linalg.matrix_norm(matrix, 2) * torch.outer(vector, vector)
    with pytest.raises(ValueError, match="indefinite"):
        solve_spd(matrix.to(system.gram.dtype), system.rhs)


def conjugate_gradients_converge(system: System) -> None:
    gram, b = system.gram.double(), system.rhs.double().reshape(len(system.gram), -1)[:, 0]
    power = float(system.scale[0])
    matrix = gram + max(system.damping, 1e-4) * torch.eye(len(gram)).to(gram)
    solution = conjugate_gradient(lambda v: power * (matrix @ v), b * 1e-200, 20 * len(b), 1e-10)
    assert solution.stopped is Stop.CONVERGED
    expected = torch.linalg.solve(matrix, b) / power * 1e-200
    condition = float(torch.linalg.cond(matrix))
    assert float((solution.x - expected).norm()) <= 1e-8 * condition * float(expected.norm())


PROPERTIES: list[Callable[[System], None]] = [
    a_regular_system_is_solved_by_cholesky,
    scaling_by_powers_of_two_changes_no_bit,
    a_semi_definite_matrix_is_solved_with_little_jitter_at_most,
    what_can_be_reached_is_reached,
    a_deferred_solution_is_the_solution,
    an_indefinite_matrix_is_refused,
    conjugate_gradients_converge,
]


@pytest.mark.parametrize("holds", PROPERTIES, ids=lambda p: p.__name__)
@given(system=systems())
def test_of_random_matrices(holds: Callable[[System], None], system: System) -> None:
    holds(system)


@pytest.mark.slow
@pytest.mark.parametrize("holds", PROPERTIES, ids=lambda p: p.__name__)
@settings(LONG)
@given(system=systems())
def test_of_many_random_matrices(holds: Callable[[System], None], system: System) -> None:
    holds(system)
