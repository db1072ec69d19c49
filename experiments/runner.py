"""Runs many trainings a few at a time, picks up where it was cut off, and tabulates what came out.

What is finished is recorded in two committed tables, ``results/runs.csv`` (a row a run) and ``results/curves.csv``
(learning curves); a run that stands there is not trained again, so the evidence can be gathered over several sittings
and machines. Every experiment reads its figures from these tables.
"""

import csv
import json
import platform
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from ratpg.training.logging import read_metrics

ROOT = Path("runs/evidence")
RUNS, CURVES = Path("results/runs.csv"), Path("results/curves.csv")
PACKAGES = ("torch", "numpy", "envpool", "gymnasium", "mujoco")
CURVE_INTERVAL = 20_000
"""Steps between the rows that a learning curve keeps."""

Row = dict[str, str]


@dataclass(frozen=True)
class Run:
    """One training: ``ratpg train`` with these arguments, in a folder named after it."""

    name: str
    env: str
    seed: int
    steps: int
    arguments: tuple[str, ...] = ()

    @property
    def directory(self) -> Path:
        return ROOT / f"{self.env}-{self.name}-s{self.seed}"

    @property
    def command(self) -> str:
        flags = f"--env {self.env} --seed {self.seed} --total-timesteps {self.steps} --threads 1"
        return " ".join(["ratpg train", flags, *self.arguments, f"--run-dir {self.directory}"])

    def owns(self, row: Row) -> bool:
        """Whether a row of a table is this run's."""
        return (row["name"], row["env"], row["seed"]) == (self.name, self.env, str(self.seed))


def run_all(runs: Iterable[Run], parallel: int) -> None:
    """Trains what the tables lack, ``parallel`` single-threaded runs at a time, and records each when it ends."""
    ROOT.mkdir(parents=True, exist_ok=True)
    recorded = _read(RUNS)
    missing = [run for run in runs if not any(run.owns(row) for row in recorded)]
    with ThreadPoolExecutor(parallel) as pool:
        # Recording is left to this thread, so that the tables have one writer.
        for run, complete in zip(missing, pool.map(_train, missing), strict=True):
            if complete:
                _record(run)


def _train(run: Run) -> bool:
    directory = run.directory
    if not _is_complete(run):
        command = run.command
        if (directory / "checkpoint.pt").exists():
            command = f"ratpg resume {directory}"
        elif directory.exists():  # cut off before its first checkpoint: nothing to keep
            directory.rename(directory.with_name(f"{directory.name}.cut-off-{int(time.time())}"))
        origin = directory.with_suffix(".json")
        if not origin.exists():
            origin.write_text(json.dumps(provenance(run.command)))
        with directory.with_suffix(".log").open("a") as log:
            arguments = [sys.executable, "-m", "ratpg.cli", *command.split()[1:]]
            code = subprocess.run(arguments, stdout=log, stderr=log).returncode
        print(f"exit {code}: {command}", flush=True)
    return _is_complete(run)


def _is_complete(run: Run) -> bool:
    try:
        metrics = read_metrics(run.directory)
    except FileNotFoundError:
        return False
    return bool(metrics) and metrics["timesteps"][-1] >= run.steps


def provenance(command: str) -> Row:
    """Where a figure comes from: command, commit and versions."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    versions = " ".join(f"{name}={version(name)}" for name in PACKAGES)
    return {"command": command, "commit": commit, "versions": f"python={platform.python_version()} {versions}"}


def _record(run: Run) -> None:
    metrics = read_metrics(run.directory)
    names = {name: str(value) for name, value in asdict(run).items() if name in ("name", "env", "seed")}
    summary = {
        "steps": str(int(metrics["timesteps"][-1])),
        "return": f"{metrics['episode_return_mean'][-1]:.1f}",
        "seconds": f"{metrics['wall_time'][-1]:.0f}",
    }
    origin = json.loads(run.directory.with_suffix(".json").read_text())
    _append(RUNS, [names | summary | origin])
    _append(CURVES, [names | point for point in _thinned(metrics)])


def _thinned(metrics: dict[str, list[float]]) -> Iterator[Row]:
    columns = ("episode_return_mean", "kl", "entropy", "learning_rate")
    due, last = 0.0, metrics["timesteps"][-1]
    for steps, *values in zip(metrics["timesteps"], *(metrics[name] for name in columns), strict=True):
        if steps >= due or steps == last:
            due = steps + CURVE_INTERVAL
            yield {"timesteps": str(int(steps)), **{n: f"{v:.5g}" for n, v in zip(columns, values, strict=True)}}


def _read(table: Path) -> list[Row]:
    if not table.exists():
        return []
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


def _append(table: Path, rows: Sequence[Row]) -> None:
    new = not table.exists()
    table.parent.mkdir(parents=True, exist_ok=True)
    with table.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        if new:
            writer.writeheader()
        writer.writerows(rows)


def results_of(runs: Sequence[Run]) -> list[Row]:
    """The recorded rows of these runs, in their order."""
    recorded = _read(RUNS)
    return [row for run in runs for row in recorded if run.owns(row)]


def curves_of(runs: Sequence[Run]) -> dict[str, dict[str, list[tuple[np.ndarray, np.ndarray]]]]:
    """Recorded learning curves: environment -> name -> one (timesteps, return) a seed."""
    recorded = _read(CURVES)
    curves: dict[str, dict[str, list[tuple[np.ndarray, np.ndarray]]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        points = [row for row in recorded if run.owns(row) and row["episode_return_mean"] != "nan"]
        if points:
            steps = np.array([float(row["timesteps"]) for row in points])
            returns = np.array([float(row["episode_return_mean"]) for row in points])
            curves[run.env][run.name].append((steps, returns))
    return curves


def markdown(rows: Sequence[Row]) -> str:
    """Mean ± standard error of the last-100-episode return, names down, environments across."""
    table: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        table[row["name"]][row["env"]].append(float(row["return"]))
    envs = list(dict.fromkeys(row["env"] for row in rows))
    lines = [f"| | {' | '.join(envs)} |", "|---" * (len(envs) + 1) + "|"]
    for name, cells in table.items():
        lines.append(f"| {name} | {' | '.join(_cell(cells[env]) for env in envs)} |")
    return "\n".join(lines) + "\n"


def _cell(values: Sequence[float]) -> str:
    if not values:
        return "–"
    if len(values) == 1:
        return f"{values[0]:.0f}"
    error = np.std(values, ddof=1) / len(values) ** 0.5
    return f"{np.mean(values):.0f} ± {error:.0f}"
