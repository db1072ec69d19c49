"""The float64 laboratory of block Kaczmarz: the iteration is the library's, and the theorems' bounds can fail."""

import pytest
import torch
from torch import Tensor

from block_kaczmarz import Blocks, bound, draw_rows, leverage, sequences
from kaczmarz import measured_rate
from ratpg.natgrad.dense import kaczmarz_step

N, P, STEPS = 60, 5, 40


@pytest.fixture
def scores() -> Tensor:
    return torch.randn(N, P, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture
def solution() -> Tensor:
    return torch.randn(P, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def uniform_blocks(scores: Tensor, size: int, damping: float) -> Blocks:
    rows = draw_rows(20, size, torch.ones(N), torch.Generator().manual_seed(2))
    return Blocks.of(scores, rows, damping)


@pytest.mark.parametrize("size", [3, 12])
@pytest.mark.parametrize("decay", [0.0, 0.9, 1.0])
def test_the_iteration_is_that_of_the_dense_oracle(scores: Tensor, solution: Tensor, size: int, decay: float) -> None:
    rows, damping = torch.arange(size)[None], 0.3
    blocks = Blocks.of(scores, rows, size * damping)
    errors = sequences(blocks, solution, 1.0, 3, 2, decay)["exact"]
    block, g = scores[:size], torch.zeros(P, dtype=torch.float64)
    for j in range(4):
        torch.testing.assert_close(errors.mean[j], (g - solution).square().sum())
        g = kaczmarz_step(block, block @ solution, torch.ones(size, dtype=torch.float64), damping, g, decay)


@pytest.mark.parametrize("size", [3, 12])
def test_projections_are_symmetric_and_contract(scores: Tensor, size: int) -> None:
    blocks = uniform_blocks(scores, size, 0.1)
    torch.testing.assert_close(blocks.projection, blocks.projection.transpose(1, 2))
    eigenvalues = torch.linalg.eigvalsh(blocks.projection)
    assert eigenvalues.min() > -1e-12 and eigenvalues.max() < 1


@pytest.mark.parametrize("size", [3, 12])
@pytest.mark.parametrize("damping", [0.01, 3.0])
def test_both_bounds_hold_at_every_step(scores: Tensor, solution: Tensor, size: int, damping: float) -> None:
    blocks = uniform_blocks(scores, size, damping)
    errors = sequences(blocks, solution, 0.5, STEPS, 200)
    assert errors["exact"].within(bound(blocks, solution, STEPS, 0.0))
    assert errors["fresh"].within(bound(blocks, solution, STEPS, 0.5))


def test_a_bound_that_promises_too_much_is_broken(scores: Tensor, solution: Tensor) -> None:
    blocks = uniform_blocks(scores, 3, 0.01)
    errors = sequences(blocks, solution, 0.5, STEPS, 200)
    j = torch.arange(STEPS + 1, dtype=torch.float64)
    assert not errors["exact"].within((1 - blocks.rate) ** (4 * j) * solution.square().sum())
    assert not errors["fresh"].within(bound(blocks, solution, STEPS, 0.05))


def test_fresh_noise_has_the_stated_variance(scores: Tensor) -> None:
    blocks = uniform_blocks(scores, 3, 0.5)
    errors = sequences(blocks, torch.zeros(P, dtype=torch.float64), 0.7, 1, 20_000)  # the first error is N_τ ε_τ
    for kind in ("fresh", "repeated"):
        assert abs(errors[kind].mean[1] - blocks.noise(0.7)) < 4 * errors[kind].standard_error[1]


def test_noise_of_the_row_passes_the_floor_where_damping_is_large(scores: Tensor) -> None:
    rows = torch.randperm(N, generator=torch.Generator().manual_seed(3)).view(20, 3)
    blocks = Blocks.of(scores, rows, 1e5)
    least_squares = 0.5**2 * float(torch.linalg.inv(scores.T @ scores).trace())
    assert blocks.repeated_noise_bias(0.5) == pytest.approx(least_squares, rel=1e-3)
    assert blocks.repeated_noise_bias(0.5) > 2 * blocks.noise(0.5) / blocks.rate


def test_leverage_is_one_per_parameter_and_finds_the_row_that_stands_alone(scores: Tensor) -> None:
    scores[7] *= 1e4
    assert float(leverage(scores).sum()) == pytest.approx(P)
    assert int(leverage(scores).argmax()) == 7 and float(leverage(scores)[7]) > 0.99


def test_a_geometric_sequence_has_its_rate() -> None:
    assert measured_rate(3.0 * 0.8 ** torch.arange(1000, dtype=torch.float64)) == pytest.approx(0.8)
