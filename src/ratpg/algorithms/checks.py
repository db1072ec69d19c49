"""Checks of hyperparameters, made when a config is."""

import sys

LARGEST = 3.4028234663852886e38
"""The largest number in single precision."""


class BadConfig(ValueError):
    """A hyperparameter that makes no sense; the message names it."""


def require(
    name: str,
    value: float | None,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
) -> None:
    """Raises `BadConfig` unless the value is None, or finite and within the bounds."""
    if value is None:
        return
    if not abs(value) <= sys.float_info.max:  # infinite, no number, or an integer that is larger than any float
        raise BadConfig(f"{name} must be finite, got {value}")
    if abs(value) > LARGEST:
        raise BadConfig(f"{name} must be at most {LARGEST:.2g} in size, as tensors hold it, got {value:g}")
    if at_least is not None and value < at_least:
        raise BadConfig(f"{name} must be at least {at_least:g}, got {value:g}")
    if above is not None and value <= above:
        raise BadConfig(f"{name} must be greater than {above:g}, got {value:g}")
    if at_most is not None and value > at_most:
        raise BadConfig(f"{name} must be at most {at_most:g}, got {value:g}")
