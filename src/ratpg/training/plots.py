"""Learning curves: runs grouped by environment and settings, a mean with a bootstrap confidence band."""

import json
import math
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from scipy import stats

from ratpg.training.config import CONFIG
from ratpg.training.fields import matches
from ratpg.training.files import written_whole
from ratpg.training.logging import read_metrics

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COLUMNS = 3
"""Panels in a line of a figure."""
OF_ONE_RUN = ("seed", "run_dir", "threads", "device", "checkpoint_interval")
"""Settings that runs of one line may differ in."""
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
    """Draws one panel an environment and one line for all runs that differ in their seeds alone; writes ``output`` as
    PNG and SVG.

    A line ends with the shortest of its runs; what others have beyond is drawn thin. The band is the 95 % bootstrap
    confidence interval of the mean over the runs.

    Returns:
        The files written.

    Raises:
        ValueError: for a run of which nothing can be drawn, and for another kind of figure.
    """
    if output.suffix in (".pdf", ".jpg", ".jpeg", ".eps"):
        raise ValueError(f"figures are written as PNG and SVG, got {output.name}")
    runs = {os.path.realpath(directory): directory for directory in directories}  # each once
    curves = [learning_curve(directory) for directory in runs.values()]
    configs = [_config(directory) for directory in runs.values()]
    groups: dict[str, dict[str, list[Curve]]] = defaultdict(lambda: defaultdict(list))
    for curve, config in zip(curves, configs, strict=True):
        groups[config["env"]][_label(config, configs)].append(curve)
    return plot_curves(groups, output)


def _config(directory: Path) -> dict[str, Any]:
    """A run's settings, flat."""
    path = directory / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"no {CONFIG} in {directory}: is it the folder of a run?")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        algorithm = config.pop("algorithm", {})
        named = {name: config[name] for name in ("env", "algo", "preset")}
        if not all(matches(value, str) for value in named.values()):
            raise TypeError
        return config | algorithm | named
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not that of a run") from error


def _label(config: Mapping[str, Any], configs: Sequence[Mapping[str, Any]]) -> str:
    """The algorithm, the preset unless it is the default, and what else tells a run from others of these."""
    kind = {name: config[name] for name in ("env", "algo", "preset")}
    others = [other for other in configs if kind.items() <= other.items()]
    details = [config["preset"]] if config["preset"] != "default" else []
    details += ["shared"] if config.get("shared") else []
    for name, value in config.items():
        if name not in (*OF_ONE_RUN, "shared") and any(other.get(name) != value for other in others):
            details.append(f"{name.replace('_', ' ')} {value}")
    return f"{config['algo']} ({', '.join(details)})" if details else str(config["algo"])


def plot_curves(
    groups: Mapping[str, Mapping[str, Sequence[Curve]]], output: Path, suffixes: Sequence[str] = (".png", ".svg")
) -> list[Path]:
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
    written = [output.with_name(stem + suffix) for suffix in suffixes]
    for path in written:
        with written_whole(path) as file:
            figure.savefig(file, format=path.suffix[1:], dpi={1: 150, 2: 100}.get(lines, 80))
    plt.close(figure)
    return written


def _draw(axis: "plt.Axes", label: str, curves: Sequence[Curve], color: str) -> None:
    if len(curves) == 1:
        axis.plot(*curves[0], label=label, color=color)
        return
    start, stop = max(steps[0] for steps, _ in curves), min(steps[-1] for steps, _ in curves)
    for steps, returns in curves:
        beyond = steps >= stop
        if start >= stop or beyond.sum() > 1:
            axis.plot(steps[beyond], returns[beyond], color=color, linewidth=0.7, alpha=0.6)
    grid = np.linspace(start, max(start, stop), GRID)
    values = np.stack([np.interp(grid, steps, returns) for steps, returns in curves])
    axis.plot(grid, values.mean(0), label=f"{label}, {len(curves)} runs", color=color)
    if np.ptp(values, axis=0).max() > 0:
        interval = stats.bootstrap((values,), np.mean, axis=0, rng=0, method="percentile").confidence_interval
        axis.fill_between(grid, interval.low, interval.high, color=color, alpha=0.2)
