"""The two committed tables of finished trainings, and what is read out of them.

``results/runs.csv`` has a row a run, ``results/curves.csv`` learning curves; every experiment reads its figures from
them. A row is a run's if all settings are the same; an option that is newer than the row counts as having had what is
now its default, or what `run.BEFORE` says, where that default would not leave things as they were.
"""

import csv
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from ratpg.training.logging import read_metrics
from run import Row, Run

RUNS, CURVES = Path("results/runs.csv"), Path("results/curves.csv")
CURVE_INTERVAL = 20_000
"""Steps between the rows that a learning curve keeps."""

Curves = dict[str, dict[str, list[tuple[np.ndarray, np.ndarray]]]]
"""Environment -> name -> one (timesteps, return) a seed."""


def lacking(runs: Iterable[Run]) -> list[Run]:
    """Those of the runs that are not recorded."""
    rows = _read(RUNS)
    return [run for run in runs if not any(run.owns(row) for row in rows)]


def record(run: Run) -> None:
    """Puts a finished run into both tables, with what the runner wrote beside its folder of commits and versions."""
    metrics = read_metrics(run.directory)
    names = {"config": run.fingerprint, "name": run.name, "env": run.env, "seed": str(run.seed)}
    summary = {
        "steps": str(int(metrics["timesteps"][-1])),
        "return": f"{metrics['episode_return_mean'][-1]:.1f}",
        "seconds": f"{metrics['wall_time'][-1]:.0f}",
    }
    # Of the start and of every resume; unknown where it was not started here.
    written = run.beside("origins")
    lines = written.read_text().splitlines() if written.exists() else ["unknown unknown"]
    commits, _, packages = (dict.fromkeys(part) for part in zip(*(line.partition(" ") for line in lines), strict=True))
    origin = {"command": run.command, "commit": " ".join(commits), "versions": " | ".join(packages)}
    # The curve first: a run that stands in the table counts as recorded, whatever else is missing.
    _append(CURVES, [{"config": run.fingerprint} | point for point in _thinned(metrics)])
    _append(RUNS, [names | summary | origin | {"settings": json.dumps(run.settings, sort_keys=True)}])


def _thinned(metrics: dict[str, list[float]]) -> Iterator[Row]:
    columns = ("episode_return_mean", "entropy")
    due, last = 0.0, metrics["timesteps"][-1]
    for steps, *values in zip(metrics["timesteps"], *(metrics[name] for name in columns), strict=True):
        if steps >= due or steps == last:
            due = steps + CURVE_INTERVAL
            yield {"timesteps": str(int(steps)), **{n: f"{v:.5g}" for n, v in zip(columns, values, strict=True)}}


def _read(table: Path) -> list[Row]:
    if not table.exists():
        return []
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
        file.seek(0)
        whole = not rows or file.read().endswith("\n")
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values() or (number == len(rows) + 1 and not whole):
            sys.exit(f"row {number} of {table} is cut off: take it out")
    return rows


def _append(table: Path, rows: Sequence[Row]) -> None:
    new = not table.exists() or not table.stat().st_size
    table.parent.mkdir(parents=True, exist_ok=True)
    with table.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        if new:
            writer.writeheader()
        writer.writerows(rows)


def results_of(runs: Sequence[Run]) -> list[Row]:
    """The recorded rows of these runs, in their order, under the names that the runs have here."""
    recorded = _read(RUNS)
    found = [(run, next((row for row in recorded if run.owns(row)), None)) for run in runs]
    return [row | {"name": run.name} for run, row in found if row is not None]


def curves_of(runs: Sequence[Run]) -> Curves:
    """Recorded learning curves."""
    recorded = _read(CURVES)
    curves: Curves = defaultdict(lambda: defaultdict(list))
    for row in results_of(runs):
        points: dict[str, Row] = {}
        for point in recorded:
            if point["config"] == row["config"]:
                points.setdefault(point["timesteps"], point)  # the first, as of rows: two machines may have trained it
        points = {steps: point for steps, point in points.items() if point["episode_return_mean"] != "nan"}
        if not points:
            print(f"no curve was kept of {row['name']} on {row['env']}, seed {row['seed']}")
            continue
        steps = np.array([float(point["timesteps"]) for point in points.values()])
        returns = np.array([float(point["episode_return_mean"]) for point in points.values()])
        curves[row["env"]][row["name"]].append((steps, returns))
    return curves


def table_of(rows: Sequence[Row]) -> list[Row]:
    """Mean ± standard error of the last-100-episode return, and how many seeds; names down, environments across.

    Where no return of an environment reaches 100, as on Procgen, they have a decimal.
    """
    table: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        table[row["name"]][row["env"]].append(float(row["return"]))
    greatest: dict[str, float] = defaultdict(float)
    for row in rows:
        greatest[row["env"]] = max(greatest[row["env"]], abs(float(row["return"])))
    decimals = {env: 0 if value >= 100 else 1 for env, value in greatest.items()}
    return [
        {"run": name} | {env: _cell(cells[env], digits) for env, digits in decimals.items()}
        for name, cells in table.items()
    ]


def _cell(values: Sequence[float], decimals: int) -> str:
    if not values:
        return "–"
    if len(values) == 1:
        return f"{values[0]:.{decimals}f} (1)"
    error = np.std(values, ddof=1) / len(values) ** 0.5
    return f"{np.mean(values):.{decimals}f} ± {error:.{decimals}f} ({len(values)})"
