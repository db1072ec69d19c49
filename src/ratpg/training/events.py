"""TensorBoard events, written at once and by the calling thread, so that a full disk is one plain OSError."""

import contextlib
import os
import socket
import time
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter


class EventWriter:
    """Appends scalars to an event file of its own.

    Args:
        directory: the run's folder.
        purge_step: the first step whose events in other files of the folder no longer count.
    """

    def __init__(self, directory: Path, purge_step: int):
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self._records = RecordWriter((directory / name).open("xb"))  # a file of its own, and no link
        self._append(Event(file_version="brain.Event:2"))
        self._append(Event(step=purge_step, session_log=SessionLog(status=SessionLog.START)))

    def write(self, row: dict[str, float]) -> None:
        """One scalar a column, at the row's ``timesteps``."""
        scalars = [Summary.Value(tag=tag, simple_value=value) for tag, value in row.items() if tag != "timesteps"]
        self._append(Event(step=int(row["timesteps"]), summary=Summary(value=scalars)))

    def _append(self, event: Event) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())
        self._records.flush()

    def close(self) -> None:
        with contextlib.suppress(OSError):  # a full disk was reported by the write
            self._records.close()
