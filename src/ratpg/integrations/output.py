"""The one file that a command makes of a run."""

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def destination(output: Path, name: str) -> Path:
    """Where a command's file goes, links followed.

    Args:
        output: the file, or a folder that exists.
        name: of the file in a folder.

    Raises:
        ValueError: where something else than a file is in its place.
    """
    try:
        path = (output / name if output.is_dir() else output).resolve()
    except RuntimeError as error:  # of Python before 3.13
        raise ValueError(f"{output} is a link to itself: name another with --output") from error
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is no file that could be replaced: name another with --output")
    return path


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Another path to write to, of the same name; what is written there replaces the file once all of it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = path.parent / f"tmp{uuid.uuid4().hex}"  # on the same disk, so that it can be moved
    try:  # before there is one: Ctrl-C may come at once
        folder.mkdir()
        yield folder / path.name
        (folder / path.name).replace(path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
