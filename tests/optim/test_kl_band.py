"""The step size that a KL band rules."""

import math

import pytest

from ratpg.optim.kl_band import KLBand


def after(kl: float, value: float = 0.3, bounds: tuple[float, float] = (1e-4, 2.0)) -> float:
    band = KLBand(value, (0.005, 0.02), bounds)
    band.update(kl)
    return band.value


def test_above_the_band_the_step_size_is_divided() -> None:
    assert after(0.021) == pytest.approx(0.2)


def test_below_the_band_the_step_size_is_multiplied() -> None:
    assert after(0.004) == pytest.approx(0.45)


@pytest.mark.parametrize("kl", [0.005, 0.01, 0.02])
def test_inside_the_band_and_at_its_ends_the_step_size_stays(kl: float) -> None:
    assert after(kl) == 0.3


def test_the_step_size_stays_within_its_bounds() -> None:
    assert after(0.0, value=1.9) == 2.0
    assert after(1.0, value=1.2e-4) == 1e-4


def test_a_first_step_size_outside_the_bounds_is_brought_inside() -> None:
    assert after(0.01, value=5.0) == 2.0


def test_an_infinite_kl_shrinks_the_step_size() -> None:
    assert after(math.inf) == pytest.approx(0.2)


def test_a_kl_that_is_not_a_number_does_not_poison_the_step_size() -> None:
    assert after(math.nan) == 0.3


def test_steady_feedback_settles_where_the_kl_is_inside_the_band() -> None:
    band = KLBand(1e-3, (0.005, 0.02), (1e-4, 2.0))
    for _ in range(50):
        band.update(0.05 * band.value**2)  # the KL of a step grows with its square
    assert 0.005 <= 0.05 * band.value**2 <= 0.02
