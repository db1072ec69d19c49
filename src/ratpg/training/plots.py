"""Learning curves: runs grouped by algorithm and environment, a mean with a bootstrap confidence band."""

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from scipy import stats

from ratpg.training.logging import read_metrics

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COLUMNS = 3
"""Panels in a line of a figure."""
GRID = 200
"""Points at which curves of different runs are compared."""

Curve = tuple[np.ndarray, np.ndarray]


def learning_curve(directory: Path) -> Curve:
    """(timesteps, mean return of the last 100 episodes) of a run, from its first finished episode on.

    Raises:
        ValueError: where no episode has finished yet.
    """
    metrics = read_metrics(directory)
    steps = np.array(metrics.get("timesteps", []))
    returns = np.array(metrics.get("episode_return_mean", []))
    if not np.isfinite(returns).any():
        raise ValueError(f"no episode has finished in {directory} yet: nothing to plot")
    return steps[np.isfinite(returns)], returns[np.isfinite(returns)]


def plot_runs(directories: Sequence[Path], output: Path) -> list[Path]:
    """Draws one panel an environment and one line an algorithm; writes ``output`` as PNG and SVG.

    The band is the 95 % bootstrap confidence interval of the mean over a group's runs.

    Returns:
        The files written.
    """
    groups: dict[str, dict[str, list[Curve]]] = defaultdict(lambda: defaultdict(list))
    for directory in directories:
        curve = learning_curve(directory)
        config = json.loads((directory / "config.json").read_text())
        groups[config["env"]][_label(config)].append(curve)
    return plot_curves(groups, output)


def _label(config: Mapping[str, Any]) -> str:
    details = [config["preset"]] if config["preset"] != "default" else []
    if config.get("shared"):  # which runs of older versions do not have
        details.append("shared")
    return f"{config['algo']} ({', '.join(details)})" if details else str(config["algo"])


def plot_curves(groups: Mapping[str, Mapping[str, Sequence[Curve]]], output: Path) -> list[Path]:
    """As `plot_runs`, for curves already read: environment -> label -> one curve a run. A label has one colour."""
    columns = min(len(groups), COLUMNS)
    lines = math.ceil(len(groups) / columns)
    size = 5.5 * columns, 4 * lines
    figure, axes = plt.subplots(lines, columns, figsize=size, squeeze=False, layout="constrained")
    for axis in axes.flat[len(groups) :]:
        axis.remove()
    labels = sorted({label for by_label in groups.values() for label in by_label})
    colors = {label: f"C{index}" for index, label in enumerate(labels)}
    for axis, (env, by_label) in zip(axes.flat, sorted(groups.items()), strict=False):
        for label, curves in sorted(by_label.items()):
            _draw(axis, label, curves, colors[label])
        axis.set(title=env, xlabel="environment steps", ylabel="return (mean of the last 100 episodes)")
        axis.ticklabel_format(axis="x", style="sci", scilimits=(0, 0))
        axis.grid(alpha=0.3)
        axis.legend(frameon=False)
    stem = output.stem if output.suffix in (".png", ".svg") else output.name
    written = [output.with_name(stem + suffix) for suffix in (".png", ".svg")]
    for path in written:
        figure.savefig(path, dpi=150 if lines == 1 else 100)
    plt.close(figure)
    return written


def _draw(axis: "plt.Axes", label: str, curves: Sequence[Curve], color: str) -> None:
    if len(curves) == 1:
        axis.plot(*curves[0], label=label, color=color)
        return
    start, stop = max(steps[0] for steps, _ in curves), min(steps[-1] for steps, _ in curves)
    grid = np.linspace(start, max(start, stop), GRID)
    values = np.stack([np.interp(grid, steps, returns) for steps, returns in curves])
    axis.plot(grid, values.mean(0), label=f"{label}, {len(curves)} seeds", color=color)
    if np.ptp(values, axis=0).max() > 0:
        interval = stats.bootstrap((values,), np.mean, axis=0, rng=0, method="percentile").confidence_interval
        axis.fill_between(grid, interval.low, interval.high, color=color, alpha=0.2)
