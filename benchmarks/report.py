"""What a benchmark leaves behind: rows as CSV, as a Markdown table and as bars, and where they were measured."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

from ratpg.cli.script import commit
from timing import machine

matplotlib.use("Agg")
import matplotlib.pyplot as plt

Row = dict[str, str | int | float]


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a table."""
    lines = [f"| {' | '.join(name.replace('_', ' ') for name in rows[0])} |", "|---" * len(rows[0]) + "|"]
    lines += [f"| {' | '.join(str(value) for value in row.values())} |" for row in rows]
    return "\n".join(lines) + "\n"


def write(directory: Path, name: str, rows: Sequence[Row], device: str = "cpu") -> None:
    """``NAME.csv``, ``NAME.md`` and ``NAME.machine.txt`` in a folder, of what was measured on a device."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / f"{name}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    (directory / f"{name}.md").write_text(markdown(rows))
    (directory / f"{name}.machine.txt").write_text(f"{machine(device)}, commit {commit('benchmarks')}\n")


def draw_bars(path: Path, groups: Mapping[str, Mapping[str, float]], label: str, log: bool = False) -> None:
    """A group of bars for each of ``groups``, one colour a name in them, as ``PATH.png``.

    Args:
        path: without its suffix.
        groups: group -> name -> value; a name that a group lacks leaves a gap.
        label: of the values.
        log: whether their axis is logarithmic.
    """
    names = list(dict.fromkeys(name for values in groups.values() for name in values))
    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    width = 0.8 / len(names)
    for index, name in enumerate(names):
        bars = {place: values[name] for place, values in enumerate(groups.values()) if name in values}
        places = [place + (index + 0.5) * width - 0.4 for place in bars]
        axes.bar(places, bars.values(), width, label=name)
    axes.set_xticks(range(len(groups)), groups)
    axes.set(ylabel=label, yscale="log" if log else "linear")
    axes.grid(axis="y", alpha=0.3)
    axes.legend(frameon=False, fontsize="small")
    figure.savefig(path.with_suffix(".png"), dpi=150)
    plt.close(figure)
