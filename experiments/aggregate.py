"""One figure for several tasks: the interquartile mean of normalised returns.

Agarwal et al. 2021, Deep reinforcement learning at the edge of the statistical precipice, arXiv 2108.13264.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import trim_mean

RESAMPLES = 5000
LEVEL = 0.95


def interquartile_mean(scores: Mapping[str, Sequence[float]]) -> float:
    """Mean of the middle half of all runs' scores, a task's runs beside the others'.

    A quarter of the runs is left out at either end, rounded down: three of fifteen.

    Args:
        scores: task -> score of each run.
    """
    return float(trim_mean(np.concatenate([np.asarray(runs, float) for runs in scores.values()]), 0.25))


def interval(scores: Mapping[str, Sequence[float]]) -> tuple[float, float]:
    """The 95 % interval of `interquartile_mean` by a bootstrap stratified by task: each task's runs are drawn anew.

    With few runs a task it is too narrow, as every percentile bootstrap.
    """
    rng = np.random.default_rng(0)
    drawn = [rng.choice(np.asarray(runs, float), (RESAMPLES, len(runs))) for runs in scores.values()]
    means = trim_mean(np.concatenate(drawn, 1), 0.25, axis=1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
