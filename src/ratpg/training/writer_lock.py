"""One writer at a time in a run's folder."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ratpg.algorithms.checks import BadConfig


@contextmanager
def only_writer(directory: Path) -> Iterator[None]:
    """Keeps other trainings out of a folder; the lock is on the folder itself and ends with the process at the latest.

    Raises:
        BadConfig: where another training writes into it.
    """
    handle = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BadConfig(
                f"another training is writing to {directory}: wait for it, stop it, or choose another --run-dir"
            ) from error
        except OSError:  # a network file system that locks no folders
            pass
        yield
    finally:
        os.close(handle)
