"""Updates that gave something that is not finite."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from ratpg.natgrad import NotFinite
from ratpg.training.checkpoint import first_line


class TrainingDiverged(ValueError):
    """An update gave parameters or losses that are not finite."""

    def __init__(self, timesteps: int, reason: str):
        super().__init__(
            f"training diverged after {timesteps} timesteps ({reason}); the last good checkpoint is kept: try smaller "
            "steps or more damping"
        )


def require_finite(metrics: Mapping[str, float], timesteps: int) -> None:
    """Raises `TrainingDiverged` unless all of them are finite."""
    broken = [name for name, value in metrics.items() if not math.isfinite(value)]
    if broken:
        raise TrainingDiverged(timesteps, f"{', '.join(broken[:3])} not finite")


@contextmanager
def diverging(timesteps: int) -> Iterator[None]:
    """Reports numbers that are not finite, and a matrix of curvature that is none any more, as a divergence."""
    try:
        yield
    except (NotFinite, torch.linalg.LinAlgError) as error:
        raise TrainingDiverged(timesteps, first_line(error)) from error
