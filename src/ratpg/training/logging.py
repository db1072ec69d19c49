"""What a run writes while it goes: ``metrics.csv``, TensorBoard events, and a live line on the terminal."""

import contextlib
import csv
import os
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ratpg.training.events import EventWriter
from ratpg.training.files import written_whole

METRICS = "metrics.csv"
PLAIN_INTERVAL = 10.0
"""Seconds between lines where the output is no terminal."""


class MetricsWriter:
    """Appends one row a rollout to ``metrics.csv`` and to TensorBoard.

    Args:
        directory: the run's folder.
        keep_until: where a run is resumed, the last timestep whose rows stay; later ones, and a row cut off by a
            kill, are work that was lost and is done again.
        every: timesteps from one row to the next, where a run is resumed; rows that then lack are told of.
        warn: called with a line on rows that lack.

    Raises:
        ValueError: where the file is damaged.
    """

    def __init__(
        self,
        directory: Path,
        keep_until: int = 0,
        every: int | None = None,
        warn: Callable[[str], None] = warnings.warn,
    ):
        self._path = directory / METRICS
        kept = _rows_until(self._path, keep_until) if keep_until else []  # header and rows
        if every:
            _tell_of_gaps(self._path, {int(row[0]) for row in kept[1:]}, range(every, keep_until + 1, every), warn)
        with written_whole(self._path, sole=True) as file:
            self._file = os.fdopen(os.dup(file.fileno()), "a", newline="")  # the same file once it has its name
            self._writer = csv.writer(self._file)
            self._writer.writerows(kept)
            self._file.flush()
        self._columns = kept[0] if kept else []
        self._events = EventWriter(directory, purge_step=keep_until + 1)

    def write(self, row: dict[str, float]) -> None:
        if not self._columns:
            self._columns = list(row)
            self._writer.writerow(self._columns)
        if set(self._columns) != set(row):
            raise ValueError(f"{self._path} has other columns than this ratpg writes: move it away and resume")
        self._writer.writerow([row[name] for name in self._columns])
        self._file.flush()
        self._events.write(row)

    def sync(self) -> None:
        """Returns when the rows are on the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        with contextlib.suppress(OSError):  # a full disk was reported by the write
            self._file.close()
        self._events.close()


def _rows_until(path: Path, timesteps: int) -> list[list[str]]:
    """The header and the whole rows up to a timestep; a last one that was cut off is none."""
    if not path.is_file():
        return []
    with _legible(path), path.open(newline="") as file:
        header, *rows = list(csv.reader(file)) or [["timesteps"]]
        if header[0] != "timesteps":
            raise ValueError("its first line does not name the columns")
        if rows and not _is_whole(rows[-1], header):
            rows.pop()
        if cut := [row for row in rows if not _is_whole(row, header)]:
            raise ValueError(f"{','.join(cut[0])[:40]!r} is no row of it")
        kept = [row for row in rows if int(row[0]) <= timesteps]
        steps = [int(row[0]) for row in kept]
        if steps != sorted(set(steps)):
            raise ValueError("its rows are not in order")
        return [header, *kept] if kept else []


def _is_whole(row: list[str], header: list[str]) -> bool:
    return len(row) == len(header) and all(row)


def _tell_of_gaps(path: Path, found: set[int], wanted: range, warn: Callable[[str], None]) -> None:
    """Warns of rows that the run wrote and the file lacks; refuses those that the run did not write."""
    lost, strange = sorted(set(wanted) - found), sorted(found - set(wanted))
    with _legible(path):
        if strange:
            raise ValueError(f"the run has written no row at {strange[0]} timesteps")
    if lost:
        what = f"lacks {len(lost)} of {len(wanted)} rows, the first at {lost[0]} timesteps" if found else "is gone"
        warn(
            f"{path} {what}: the training goes on where its checkpoint is, and learning curves have a gap; if you have "
            "a whole copy, stop, put it back and resume"
        )


def read_metrics(directory: Path) -> dict[str, list[float]]:
    """Columns of a run's ``metrics.csv``.

    Raises:
        FileNotFoundError: where the folder holds no run.
        ValueError: where the file is damaged.
    """
    path = directory / METRICS
    if not path.is_file():
        raise FileNotFoundError(f"no {METRICS} in {directory}: is it the folder of a run?")
    with _legible(path), path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if all(row.values())]  # without one cut off by a kill
        columns = {name: [float(row[name]) for row in rows] for name in (rows[0] if rows else {})}
        if lacking := [name for name in ("timesteps", "episode_return_mean") if rows and name not in columns]:
            raise ValueError(f"it has no column {' and no column '.join(lacking)}")
        return columns


@contextlib.contextmanager
def _legible(path: Path) -> Iterator[None]:
    """Names a file that is damaged."""
    try:
        yield
    except (ValueError, TypeError, csv.Error) as error:
        raise ValueError(f"{path} is damaged ({error}): take the broken lines out, or move it away") from error


def say(line: str, file: IO[str] | None = None) -> None:
    """Prints a line at once; a training goes on where nobody reads it any more, or the log's disk is full."""
    with contextlib.suppress(OSError):
        print(line, file=file, flush=True)


class ProgressDisplay:
    """A live bar on a terminal; elsewhere a line every ten seconds."""

    def __init__(self, total: int, start: int, console: Console):
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("return {task.fields[ret]}  KL {task.fields[kl]}  {task.fields[sps]} steps/s"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._total, self._last = total, time.monotonic()
        self._task = self._progress.add_task("steps", total=total, completed=start, ret="-", kl="-", sps="-")

    def __enter__(self) -> "ProgressDisplay":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, row: dict[str, float]) -> None:
        fields = {
            "ret": f"{row['episode_return_mean']:.1f}",
            "kl": f"{row['kl']:.4f}",
            "sps": f"{row['sps']:.0f}",
        }
        done = int(row["timesteps"])
        self._progress.update(
            self._task, completed=min(done, self._total), ret=fields["ret"], kl=fields["kl"], sps=fields["sps"]
        )
        now = time.monotonic()
        if not self._console.is_terminal and now - self._last >= PLAIN_INTERVAL:
            self._last = now
            left = max(0, self._total - done) / row["sps"]
            say(
                f"{done}/{self._total} steps  return {fields['ret']}  KL {fields['kl']}  "
                f"{fields['sps']} steps/s  {left:.0f} s left",
                self._console.file,
            )
