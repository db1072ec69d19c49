"""Runs many trainings a few at a time, picks up where it was cut off, and has each recorded when it ends.

A run that stands in the committed tables (`records`) is not trained again, so the evidence can be gathered over several
sittings and machines.
"""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress

import records
from ratpg.cli.script import commit
from ratpg.training import checkpoint
from ratpg.training.checkpoint import BadCheckpoint
from ratpg.training.config import missing_from
from ratpg.training.logging import read_metrics
from ratpg.training.trainer import CONFIG
from run import Run, flat
from versions import versions

_under_way: set["subprocess.Popen[bytes]"] = set()
_stopping = threading.Event()


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
    failed = []
    pool = ThreadPoolExecutor(parallel)
    try:
        trainings = {pool.submit(_train, run): run for run in records.lacking(runs)}
        # Recording is left to this thread, so that the tables have one writer.
        for training in as_completed(trainings):
            run = trainings[training]
            if training.result():
                if record and records.lacking([run]):  # which another process may have recorded meanwhile
                    records.record(run)
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
        with run.beside("log").open("a") as log:
            with run.beside("origins").open("a") as origins:
                origins.write(f"{commit('experiments')} {versions()}\n")
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
        for path in (run.directory, *(run.beside(suffix) for suffix in ("origins", "log"))):
            if path.exists():
                path.rename(path.with_name(f"{int(time.time())}-{path.name}"))


def _is_of(run: Run) -> bool:
    """Whether what stands in the run's folder has its settings, by what the training itself says of them."""
    try:
        found = flat(json.loads((run.directory / CONFIG).read_text()))
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
