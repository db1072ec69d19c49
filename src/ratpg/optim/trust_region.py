"""A backtracking line search over parameters."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


@torch.no_grad()
def backtrack(
    parameters: Sequence[Tensor],
    step: Sequence[Tensor],
    accept: Callable[[], bool],
    trials: int = 10,
) -> float:
    """Moves the parameters by the longest of ``step, 0.8 step, 0.64 step, ...`` that is accepted.

    Args:
        parameters: moved in place.
        step: the whole step, shaped as the parameters.
        accept: whether the parameters as they are now will do.
        trials: lengths that are tried.

    Returns:
        The accepted share of the step; 0 where none was, and then the parameters are, bit for bit, what they were.
    """
    before = [parameter.clone() for parameter in parameters]
    share = 1.0
    for _ in range(trials):
        for parameter, start, change in zip(parameters, before, step, strict=True):
            torch.add(start, change, alpha=share, out=parameter)
        if accept():
            return share
        share *= 0.8
    for parameter, start in zip(parameters, before, strict=True):
        parameter.copy_(start)
    return 0.0
