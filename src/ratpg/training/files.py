"""Files that take their place whole or not at all, and never through a link."""

import glob
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

TEMPORARY = ".tmp"
"""How the name of a file ends that is being written."""


@contextmanager
def written_whole(path: Path, *, sole: bool = False) -> Iterator[IO[bytes]]:
    """A new file beside ``path``, open for writing, that replaces it once it is on the disk.

    A link in the place of ``path`` is replaced, not followed. The new file has a name that nobody can know before, and
    must not exist yet: no link can lie in wait there.

    Args:
        path: of the file.
        sole: whether nobody else writes this file; what earlier kills left of it is then removed first.

    Raises:
        OSError: where it cannot be written; what was there before stays.
    """
    if sole:
        for leftover in path.parent.glob(f"{glob.escape(path.name)}*{TEMPORARY}"):
            leftover.unlink(missing_ok=True)
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}{TEMPORARY}")
    try:
        with open(temporary, "x+b", opener=_unlinked) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_names(path.parent)


def _unlinked(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def _sync_names(folder: Path) -> None:
    """Returns when the names of a folder's files are on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
