"""``ratpg plot``: learning curves."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ratpg.cli.arguments import parse
from ratpg.training.plots import plot_runs


@dataclass(frozen=True)
class PlotArguments:
    """Draw the learning curves of one or more runs."""

    run_dirs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of runs."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """The figure, written as PNG and SVG; learning-curve in the (first) run's folder unless given, or in this one."""


def plot(arguments: list[str]) -> int:
    """Draws the curves and prints where."""
    options = parse(PlotArguments, "plot", arguments)
    if not options.run_dirs:
        raise ValueError("name at least one run folder")
    output = options.output or options.run_dirs[0]
    for path in plot_runs(options.run_dirs, output / "learning-curve" if output.is_dir() else output):
        print(path)
    return 0
