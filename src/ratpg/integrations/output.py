"""The one file that a command makes of a run."""

import os
from pathlib import Path


def destination(output: Path, name: str) -> Path:
    """Where a command's file goes, whatever becomes of the working directory.

    Links of folders are followed, and a link in the place of the file itself is not: what is written replaces it.

    Args:
        output: the file, or a folder that exists.
        name: of the file in a folder.

    Raises:
        ValueError: where something else than a file or a link is in its place.
    """
    path = (output / name if output.is_dir() else output).absolute()
    if os.path.lexists(path) and not path.is_symlink() and not path.is_file():
        raise ValueError(f"{path} is no file that could be replaced: name another with --output")
    return path
