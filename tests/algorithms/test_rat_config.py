"""Hyperparameters that make no sense are refused by name."""

import dataclasses
import math

import pytest

from ratpg.algorithms import RATConfig
from ratpg.algorithms.checks import BadConfig

POSITIVE = ["step_size", "max_step_norm", "critic_learning_rate", "critic_max_grad_norm", "critic_step_size"]
COUNTS = ["epochs", "minibatches", "critic_epochs", "critic_minibatches"]
RANGES = ["step_size_bounds", "kl_band", "critic_kl_band", "ratio_bounds"]

BAD = (
    [
        (name, value)
        for name in ("damping", "critic_damping", "entropy_coefficient", "weight_decay")
        for value in (-0.1, math.nan, math.inf)
    ]
    + [("value_coefficient", value) for value in (-0.1, math.nan)]
    + [("curvature_rows", 0), ("critic", "sgd"), ("critic_step_size", 1.1), ("value_advantage", "ones")]
    + [("kaczmarz_decay", value) for value in (-0.1, 1.1, math.nan)]
    + [(name, value) for name in POSITIVE for value in (0.0, -1.0, math.nan, math.inf)]
    + [(name, value) for name in COUNTS for value in (0, -1)]
    + [
        (name, value)
        for name in RANGES
        for value in ((-1.0, 1.0), (0.0, 1.0), (2.0, 1.0), (math.nan, 1.0), (0.5, math.nan), (0.5, math.inf))
    ]
)
GOOD = [
    ("entropy_coefficient", 0.0),
    ("kaczmarz_decay", 0.0),
    ("kaczmarz_decay", 1.0),
    ("max_step_norm", None),
    ("epochs", 1),
    ("kl_band", (0.01, 0.01)),
]


@pytest.mark.parametrize("name, value", BAD)
def test_a_value_that_makes_no_sense_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(BadConfig, match=rf"^{name}\b.*must be"):
        RATConfig(**{name: value})


@pytest.mark.parametrize("name, value", GOOD)
def test_the_ends_of_the_allowed_ranges_are_allowed(name: str, value: object) -> None:
    assert getattr(RATConfig(**{name: value}), name) == value


def test_every_hyperparameter_is_checked() -> None:
    assert {name for name, _ in BAD} == {
        field.name for field in dataclasses.fields(RATConfig) if not isinstance(field.default, bool)
    }


def test_weight_decay_needs_damping() -> None:
    with pytest.raises(BadConfig, match=r"^weight_decay must be 0 without damping"):
        RATConfig(damping=0.0, weight_decay=0.1)
    assert RATConfig(damping=0.0, weight_decay=0.0).damping == 0.0


def test_curvature_rows_need_damping_and_carry_nothing() -> None:
    with pytest.raises(BadConfig, match=r"^curvature_rows needs damping > 0"):
        RATConfig(damping=0.0, weight_decay=0.0, curvature_rows=8)
    with pytest.raises(BadConfig, match=r"^kaczmarz_decay must be 0 with curvature_rows"):
        RATConfig(kaczmarz_decay=0.5, curvature_rows=8)
