"""An observation far outside does not move the statistics; ordinary ones, also rare and heavy-tailed ones, do."""

import logging

import numpy as np
import pytest
import torch
from torch import Tensor

from ratpg.rl.normalize import ObservationNormalizer, RunningMoments

ROWS, D = 256, 3


def random(seed: int, rows: int = ROWS) -> Tensor:
    return torch.randn(rows, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("huge", [1e30, -1e30, 1e300, 1e5])
@pytest.mark.parametrize("row", [0, 100, ROWS - 1])
@pytest.mark.parametrize("batch", [0, 1, 5])
def test_one_outlier_changes_nothing_whenever_it_comes(batch: int, row: int, huge: float) -> None:
    hit, spared = ObservationNormalizer((D,)), ObservationNormalizer((D,))
    for seed in range(8):
        rows = 7 * random(seed) + 20
        spared.update(rows)
        if seed == batch:
            rows[row] = huge
        hit.update(rows)
    torch.testing.assert_close(hit.scale, spared.scale, rtol=0.02, atol=0)
    torch.testing.assert_close(hit.shift, spared.shift, rtol=0.02, atol=0)


def test_the_other_features_of_its_row_count() -> None:
    normalizer, rows = ObservationNormalizer((D,)), random(0)
    rows[7, 1] = 1e30
    normalizer.update(rows)
    expected = rows.numpy().copy()
    expected[7, 1] = np.median(np.delete(expected[:, 1], 7))
    np.testing.assert_allclose(normalizer.shift.numpy(), expected.mean(0), rtol=0, atol=1e-4)
    np.testing.assert_allclose(normalizer.scale.numpy(), 1 / expected.std(0), rtol=1e-4)


def rare_indicator(rows: Tensor, seed: int) -> Tensor:
    return rows * 0 + (torch.arange(ROWS)[:, None] == 17 + seed) * float(seed > 2)


ORDINARY = {
    "normal": lambda rows, seed: 1e-3 * rows,
    "far from zero": lambda rows, seed: rows + 1e6,
    "heavy-tailed": lambda rows, seed: (2 * rows).exp(),
    "constant": lambda rows, seed: rows * 0 + 2026.9151,
    "seen for the first time after a while": rare_indicator,
    "contact forces": lambda rows, seed: torch.where(rows > 2, 1e4 * rows, 0.0),
    "another regime": lambda rows, seed: rows * (1e4 if seed > 2 else 1.0) + (1e6 if seed > 3 else 0.0),
    "constant, then another constant": lambda rows, seed: rows * 0 + float(seed > 2) * 500,
}


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_observations_enter_the_statistics_to_the_bit(name: str, caplog: pytest.LogCaptureFixture) -> None:
    normalizer, moments = ObservationNormalizer((D,)), RunningMoments((D,))
    for seed in range(6):
        rows = ORDINARY[name](random(seed), seed)
        normalizer.update(rows)
        moments.update(rows)
    assert torch.equal(normalizer.moments.mean, moments.mean)
    assert torch.equal(normalizer.moments.m2, moments.m2)
    assert not caplog.records


def test_a_few_rows_are_enough() -> None:
    normalizer = ObservationNormalizer((D,))
    for seed in range(300):
        rows = random(seed, rows=2 + seed % 3)
        if seed == 50:
            rows[0] = 1e30
        normalizer.update(rows)
    assert (normalizer.scale > 0.8).all()


def test_an_outlier_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    normalizer = ObservationNormalizer((D,))
    for seed in range(3):
        rows = random(seed)
        rows[4, 2] = 1e30
        normalizer.update(rows)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert caplog.messages[0].startswith("feature 2 of an observation is 1e+30, far outside")


def test_features_that_single_precision_is_too_coarse_for_are_said_once(caplog: pytest.LogCaptureFixture) -> None:
    dates = 2026.9151 + 1e-4 * torch.arange(ROWS) / ROWS
    for dtype, told in ((torch.float64, 0), (torch.float32, 1)):
        normalizer = ObservationNormalizer((2,))
        for seed in range(3):
            normalizer.update(torch.stack([random(seed)[:, 0], dates.double()], 1).to(dtype))
        assert len(caplog.messages) == told
    assert caplog.messages[0].startswith("feature 1 of the observations is 2026.915")


def test_means_are_subtracted_before_digits_are_lost() -> None:
    normalizer = ObservationNormalizer((D,))
    rows = (1e4 + 1e-2 * random(0)).float()
    normalizer.update(rows)
    exact = rows.double().numpy()
    expected = (exact - exact.mean(0)) / np.sqrt(exact.var(0) + 1e-8)
    np.testing.assert_allclose(normalizer(rows).numpy(), expected.clip(-5, 5), rtol=1e-5, atol=1e-6)
