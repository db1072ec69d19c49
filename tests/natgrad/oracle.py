"""The expected values: a case's score matrix in float64, computed once, and the vectors every test uses with it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from ratpg.natgrad import AdvantageTransform, Step, dense

from .cases import CASES, Case


@dataclass(frozen=True)
class Problem:
    """One system to solve, in float64: scores ``H [B, p]``, advantages ``y [B]``, weights ``w [B]``."""

    scores: Tensor
    advantages: Tensor
    weights: Tensor


@cache
def problem(name: str) -> Problem:
    """The problem of a case: its scores one backward pass a row, random advantages, random positive weights."""
    case = CASES[name]()
    scores = dense.score_matrix(case.log_prob(), case.parameters)
    generator = torch.Generator().manual_seed(1)
    # Drawn in float32, so that the float32 problem is the same one.
    advantages = torch.randn(len(scores), generator=generator)
    weights = 0.1 + 2.0 * torch.rand(len(scores), generator=generator)
    return Problem(scores, advantages.double(), weights.double())


def record(case: Case, damping: float = 0.1) -> tuple[AdvantageTransform, Tensor]:
    """A transform that has recorded the case, and the recorded log-probability."""
    transform = AdvantageTransform(case.actor, damping)
    with transform.record():
        log_prob = case.log_prob()
    return transform, log_prob


def solve(
    name: str, damping: float = 0.1, dtype: torch.dtype = torch.float64
) -> tuple[AdvantageTransform, Tensor, Step]:
    """The transform's step on the problem of a case."""
    case = CASES[name]().to(dtype)
    transform, log_prob = record(case, damping)
    given = problem(name)
    return transform, log_prob, transform(log_prob, given.advantages.to(dtype), given.weights.to(dtype))


def flat(tensors: Mapping[str, Tensor] | Iterable[Tensor]) -> Tensor:
    """A direction as one vector ``[p]``, in its own order."""
    values = tensors.values() if isinstance(tensors, Mapping) else tensors
    return torch.cat([t.flatten() for t in values])


def unflat(vector: Tensor, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `flat`, with the names and shapes of ``like``."""
    parts = vector.split([t.numel() for t in like.values()])
    return {name: part.view(t.shape) for (name, t), part in zip(like.items(), parts, strict=True)}


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """``|actual − expected| / |expected|``, in float64; the shapes must be the same."""
    assert actual.shape == expected.shape, f"{list(actual.shape)} is not {list(expected.shape)}"
    expected = expected.double()
    return float((actual.double() - expected).norm() / expected.norm())
