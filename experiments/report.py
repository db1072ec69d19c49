"""What an experiment leaves in ``results/NAME/``: CSV, a figure, and ``summary.json`` with where its figures come from.

Measuring writes the CSV; figures and tables are made from the CSV alone, so that ``--redraw`` makes them again from
what is committed, and measures nothing.
"""

import argparse
import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

from ratpg.cli.script import commit
from versions import versions

matplotlib.use("Agg")
import matplotlib.pyplot as plt

RESULTS = Path("results")
SUFFIXES = (".png",)
"""Of figures; an SVG carries its date, and would differ each time."""
COMMIT = commit("experiments")
"""What is run, asked before anything is written."""

Row = dict[str, str]


def run(doc: str, measure: Callable[[], None], draw: Callable[[], None]) -> None:
    """The command line of an experiment that takes minutes."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--redraw", action="store_true", help="measure nothing, draw again what the CSVs hold")
    if not parser.parse_args().redraw:
        measure()
    draw()


def at_least_one(text: str) -> int:
    """A number on the command line.

    Raises:
        ArgumentTypeError: for what is none, or less than one.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no number from 1 on")
    return int(text)


def write_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """The rows, floats with six digits; replaces the file once all of it is written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            {name: f"{value:.6g}" if isinstance(value, float) else value for name, value in row.items()} for row in rows
        )
    temporary.replace(path)


def read_csv(path: Path) -> list[Row]:
    """The rows of a file, as text."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write_summary(
    name: str, seeds: str, figures: Mapping[str, Any], commits: str | None = None, packages: str | None = None
) -> None:
    """``results/NAME/summary.json``: the headline figures after command, commit, seeds and versions; these of now,
    unless given."""
    origin = {
        "command": f"ratpg reproduce {name}",
        "commit": commits or COMMIT,
        "seeds": seeds,
        "versions": packages or versions(),
    }
    text = json.dumps(origin | dict(figures), indent=2, ensure_ascii=False) + "\n"
    (RESULTS / name / "summary.json").write_text(text)
    print(text)


def save(figure: "plt.Figure", path: Path) -> None:
    """Writes a figure as PNG."""
    figure.savefig(path, dpi=100)
    plt.close(figure)
    print(path)


def markdown(rows: Sequence[Mapping[str, object]]) -> str:
    """The rows as a Markdown table; ``_`` in a column's name stands for a space."""
    lines = [f"| {' | '.join(name.replace('_', ' ') for name in rows[0])} |", "|---" * len(rows[0]) + "|"]
    lines += [f"| {' | '.join(str(value) for value in row.values())} |" for row in rows]
    return "\n".join(lines) + "\n"
