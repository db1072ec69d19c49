"""Runs many trainings a few at a time, picks up where it was cut off, and tabulates what came out."""

import csv
import json
import platform
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from ratpg.training.logging import read_metrics

PACKAGES = ("ratpg", "torch", "numpy", "envpool", "gymnasium", "mujoco")


@dataclass(frozen=True)
class Run:
    """One training: ``ratpg train`` with these arguments, in a folder named after it."""

    name: str
    env: str
    seed: int
    steps: int
    arguments: tuple[str, ...] = ()

    def directory(self, root: Path) -> Path:
        return root / f"{self.env}-{self.name}-s{self.seed}"

    def command(self, root: Path) -> list[str]:
        return [
            "ratpg", "train", "--env", self.env, "--seed", str(self.seed), "--total-timesteps", str(self.steps),
            "--threads", "1", "--run-dir", str(self.directory(root)), *self.arguments,
        ]  # fmt: skip


def run_all(runs: Iterable[Run], root: Path, parallel: int) -> None:
    """Trains what is not complete yet, ``parallel`` single-threaded runs at a time."""
    root.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(parallel) as pool:
        for future in [pool.submit(_run_one, run, root) for run in runs]:
            future.result()


def _run_one(run: Run, root: Path) -> None:
    directory = run.directory(root)
    if is_complete(run, root):
        return
    command = run.command(root)
    if (directory / "checkpoint.pt").exists():
        command = ["ratpg", "resume", str(directory)]
    elif directory.exists():  # cut off before its first checkpoint: nothing to keep
        directory.rename(directory.with_name(f"{directory.name}.cut-off-{int(time.time())}"))
    else:
        directory.parent.mkdir(parents=True, exist_ok=True)
    with (root / f"{directory.name}.log").open("a") as log:
        _note_provenance(run, root)
        print(" ".join(command), flush=True)
        code = subprocess.run([sys.executable, "-m", *_as_module(command)], stdout=log, stderr=log).returncode
    print(f"exit {code}: {directory.name}", flush=True)


def _as_module(command: list[str]) -> list[str]:
    return ["ratpg.cli", *command[1:]]


def _note_provenance(run: Run, root: Path) -> None:
    """Beside the folder, which must be empty for a new run."""
    path = root / f"{run.directory(root).name}.json"
    if not path.exists():
        path.write_text(json.dumps(provenance(run.command(root))))


def provenance(command: Sequence[str]) -> dict[str, str]:
    """Where a figure comes from: command, commit and versions."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    versions = " ".join(f"{name}={version(name)}" for name in PACKAGES)
    return {
        "command": " ".join(command),
        "commit": commit,
        "versions": f"python={platform.python_version()} {versions}",
    }


def is_complete(run: Run, root: Path) -> bool:
    try:
        metrics = read_metrics(run.directory(root))
    except FileNotFoundError:
        return False
    return bool(metrics) and metrics["timesteps"][-1] >= run.steps


def write_runs(runs: Sequence[Run], root: Path, output: Path) -> list[dict[str, str]]:
    """One CSV row a complete run: last-100-episode return, steps/s, and where it comes from; returns the rows."""
    rows = []
    for run in runs:
        if not is_complete(run, root):
            continue
        metrics = read_metrics(run.directory(root))
        origin = json.loads((root / f"{run.directory(root).name}.json").read_text())
        rows.append(
            {
                "env": run.env,
                "name": run.name,
                "seed": str(run.seed),
                "steps": str(int(metrics["timesteps"][-1])),
                "return": f"{metrics['episode_return_mean'][-1]:.1f}",
                "seconds": f"{metrics['wall_time'][-1]:.0f}",
                **origin,
            }
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else ["env"])
        writer.writeheader()
        writer.writerows(rows)
    return rows


def write_curves(runs: Sequence[Run], root: Path, output: Path, every: int = 20_000) -> None:
    """The learning curves of the complete runs, thinned to a row every ``every`` steps, in one CSV."""
    with output.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["env", "name", "seed", "timesteps", "return", "kl", "entropy", "learning_rate"])
        for run in runs:
            if not is_complete(run, root):
                continue
            metrics, due = read_metrics(run.directory(root)), 0.0
            columns = ("timesteps", "episode_return_mean", "kl", "entropy", "learning_rate")
            for steps, *values in zip(*(metrics[name] for name in columns), strict=True):
                if steps >= due or steps == metrics["timesteps"][-1]:
                    writer.writerow([run.env, run.name, run.seed, int(steps), *(f"{v:.5g}" for v in values)])
                    due = steps + every


def markdown(rows: Sequence[dict[str, str]]) -> str:
    """Mean ± standard error of the return over seeds, environments across, names down."""
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
        return f"{values[0]:.0f} (1 seed)"
    error = np.std(values, ddof=1) / len(values) ** 0.5
    return f"{np.mean(values):.0f} ± {error:.0f} ({len(values)} seeds)"
