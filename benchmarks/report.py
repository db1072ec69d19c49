"""What a benchmark leaves behind: rows as CSV and as a Markdown table, and the machine they were measured on."""

import csv
from collections.abc import Sequence
from pathlib import Path

from timing import commit, machine

Row = dict[str, str | int | float]


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a table."""
    lines = [f"| {' | '.join(name.replace('_', ' ') for name in rows[0])} |", "|---" * len(rows[0]) + "|"]
    lines += [f"| {' | '.join(str(value) for value in row.values())} |" for row in rows]
    return "\n".join(lines) + "\n"


def write(directory: Path, name: str, rows: Sequence[Row]) -> None:
    """``NAME.csv``, ``NAME.md`` and ``machine.txt`` in a folder."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / f"{name}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    (directory / f"{name}.md").write_text(markdown(rows))
    (directory / "machine.txt").write_text(f"{machine()}, commit {commit()}\n")
