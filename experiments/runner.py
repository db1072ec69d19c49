"""Runs many trainings a few at a time, picks up where it was cut off, and tabulates what came out.

What is finished is recorded in two committed tables, ``results/runs.csv`` (a row a run) and ``results/curves.csv``
(learning curves); a run that stands there is not trained again, so the evidence can be gathered over several sittings
and machines. Every experiment reads its figures from these tables. A row is a run's if all settings are the same; an
option that is newer than the row counts as having had what is now its default, or what `BEFORE` says, where that
default would not leave things as they were.
"""

import csv
import hashlib
import json
import platform
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from ratpg.cli.arguments import parse_train
from ratpg.training import checkpoint
from ratpg.training.checkpoint import BadCheckpoint
from ratpg.training.config import missing_from
from ratpg.training.logging import read_metrics
from ratpg.training.trainer import CONFIG

ROOT, TRIED = Path("runs/evidence"), Path("runs/tried")
RUNS, CURVES = Path("results/runs.csv"), Path("results/curves.csv")
PACKAGES = ("torch", "numpy", "envpool", "gymnasium", "mujoco")
BEFORE = {
    "initial_weights": "orthogonal",
    "stagger": False,
    "algorithm.anneal_kl_band": False,
    "algorithm.weight_decay": 0.0,
}
"""What an option whose default changes a run was before there was such an option."""
CURVE_INTERVAL = 20_000
"""Steps between the rows that a learning curve keeps."""

_under_way: set["subprocess.Popen[bytes]"] = set()
_stopping = threading.Event()

Row = dict[str, str]
Settings = dict[str, Any]
Curves = dict[str, dict[str, list[tuple[np.ndarray, np.ndarray]]]]
"""Environment -> name -> one (timesteps, return) a seed."""


@dataclass(frozen=True)
class Run:
    """One training: ``ratpg train`` with these arguments, in a folder named after it; on any device it is the same."""

    name: str
    env: str
    seed: int
    steps: int
    arguments: tuple[str, ...] = ()
    device: str = "cpu"
    root: Path = ROOT

    @property
    def directory(self) -> Path:
        return self.root / f"{self.env}-{self.name}-s{self.seed}"

    @property
    def command(self) -> str:
        flags = f"--env {self.env} --seed {self.seed} --total-timesteps {self.steps} --threads 1"
        device = () if self.device == "cpu" else (f"--device {self.device}",)
        return " ".join(["ratpg train", flags, *self.arguments, *device, f"--run-dir {self.directory}"])

    @cached_property
    def settings(self) -> Settings:
        return settings_of(self.command.removeprefix("ratpg train"))

    @cached_property
    def fingerprint(self) -> str:
        """Of the settings but for the device, so that a figure made with other defaults is not taken for this run's."""
        settings = self.settings | {"device": "cpu"}
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]

    @cached_property
    def defaults(self) -> Settings:
        """The settings of this algorithm and preset where no more is said."""
        return settings_of(f"--env {self.env} --algo {self.settings['algo']} --preset {self.settings['preset']}")

    def owns(self, row: Row) -> bool:
        """Whether a row of ``runs.csv`` is this run's, on whichever device."""
        recorded: Settings = json.loads(row["settings"]) | {"device": self.device}
        newer = {name: BEFORE.get(name, value) for name, value in self.defaults.items() if name not in recorded}
        return recorded | newer == self.settings


def settings_of(flags: str) -> Settings:
    """All values of a training that can change its result, flat."""
    return _flat(parse_train(flags.split()).to_dict())


def _flat(config: Settings) -> Settings:
    algorithm = config.pop("algorithm")
    flat = {**config, **{f"algorithm.{name}": value for name, value in algorithm.items()}}
    values = {name: value for name, value in flat.items() if name not in ("run_dir", "checkpoint_interval")}
    return json.loads(json.dumps(values))  # tuples become lists, as in what is read back


def run_all(runs: Iterable[Run], parallel: int, record: bool = True) -> list[str]:
    """Trains what the tables lack, ``parallel`` single-threaded runs at a time, and records each when it ends.

    Args:
        runs: the trainings.
        parallel: how many at a time.
        record: whether they go into the tables, or are only tried out.

    Returns:
        The folders of those that failed.
    """
    _stopping.clear()
    recorded = _read(RUNS)
    missing = [run for run in runs if not any(run.owns(row) for row in recorded)]
    failed = []
    pool = ThreadPoolExecutor(parallel)
    try:
        trainings = {pool.submit(_train, run): run for run in missing}
        # Recording is left to this thread, so that the tables have one writer.
        for training in as_completed(trainings):
            run = trainings[training]
            if training.result():
                if record and not any(run.owns(row) for row in _read(RUNS)):  # by another process meanwhile
                    _record(run)
            else:
                failed.append(str(run.directory))
    except BaseException:
        _stop(pool)
        raise
    pool.shutdown()
    return failed


def _stop(pool: ThreadPoolExecutor) -> None:
    """Starts no more trainings, and has those under way save themselves, or stop at once where that is interrupted."""
    _stopping.set()  # for a worker that is about to start the next one
    pool.shutdown(wait=False, cancel_futures=True)
    while True:
        for process in list(_under_way):
            process.terminate()
        with suppress(KeyboardInterrupt):
            return pool.shutdown()


def _train(run: Run) -> bool:
    directory = run.directory
    directory.parent.mkdir(parents=True, exist_ok=True)
    if not _is_complete(run):
        _set_aside_if_other(run)
        command = run.command
        if (directory / "checkpoint.pt").exists():
            command = f"ratpg resume {directory} --device {run.device}"  # which may be another than it began on
        arguments = [sys.executable, "-m", "ratpg.cli", *command.split()[1:]]
        with _beside(directory, "log").open("a") as log:
            with _beside(directory, "origins").open("a") as origins:
                origins.write(f"{commit()} {versions()}\n")
            # In a session of its own: it hears of a Ctrl-C from this process, once.
            with subprocess.Popen(arguments, stdout=log, stderr=log, start_new_session=True) as process:
                _under_way.add(process)
                if _stopping.is_set():
                    process.terminate()
                code = process.wait()
                _under_way.discard(process)
        print(f"exit {code}: {command}", flush=True)
    return _is_complete(run)


def _set_aside_if_other(run: Run) -> None:
    """Moves a folder of this name out of the way where it holds another run, or one that cannot be resumed."""
    if run.directory.exists() and not (_is_of(run) and _saved(run) is not None):
        for path in (run.directory, *(_beside(run.directory, suffix) for suffix in ("origins", "log"))):
            if path.exists():
                path.rename(path.with_name(f"{int(time.time())}-{path.name}"))


def _is_of(run: Run) -> bool:
    """Whether what stands in the run's folder has its settings, by what the training itself says of them."""
    try:
        found = _flat(json.loads((run.directory / CONFIG).read_text()))
    except (FileNotFoundError, ValueError, KeyError):  # none, or cut off
        return False
    if run.settings["backend"] == "auto":  # the training says which it was
        found["backend"] = "auto"
    return run.owns({"settings": json.dumps(found)})


def _saved(run: Run) -> int | None:
    """Timesteps of the run's checkpoint; None where no run can go on from it."""
    try:
        state = checkpoint.load(run.directory)
    except BadCheckpoint:
        return None
    return None if missing_from(json.loads(state["config"])) else state["timesteps"]


def _is_complete(run: Run) -> bool:
    """Whether it has been trained to its end and saved, which it is not where it diverged in its last update."""
    if not _is_of(run):
        return False
    try:
        reached = max(read_metrics(run.directory).get("timesteps", [0]))
    except (FileNotFoundError, ValueError):  # none, or damaged
        return False
    return min(reached, _saved(run) or 0) >= run.steps


def _beside(directory: Path, suffix: str) -> Path:
    return directory.with_name(f"{directory.name}.{suffix}")


def commit() -> str:
    """The commit that is run, with ``-dirty`` where the code differs from it (``results/`` does as soon as one is)."""
    describe = ["git", "describe", "--always"]
    described = subprocess.run(describe, capture_output=True, text=True)
    if described.returncode:
        return "unknown"  # no clone, but a copy of the files
    name = described.stdout.strip()
    changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", "src", "experiments"]).returncode
    return f"{name}-dirty" if changed else name


def versions() -> str:
    """Of Python and of the packages that decide a figure."""
    found = [f"python={platform.python_version()}"]
    for name in PACKAGES:
        with suppress(PackageNotFoundError):  # EnvPool is for Linux alone
            found.append(f"{name}={version(name)}")
    return " ".join(found)


def _record(run: Run) -> None:
    metrics = read_metrics(run.directory)
    names = {"config": run.fingerprint, "name": run.name, "env": run.env, "seed": str(run.seed)}
    summary = {
        "steps": str(int(metrics["timesteps"][-1])),
        "return": f"{metrics['episode_return_mean'][-1]:.1f}",
        "seconds": f"{metrics['wall_time'][-1]:.0f}",
    }
    # Of the start and of every resume; unknown where it was not started here.
    written = _beside(run.directory, "origins")
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
