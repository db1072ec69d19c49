"""Checkpoints: written whole or not at all, loaded without running code."""

import os
import pickle
import re
import secrets
import shutil
import zipfile
from pathlib import Path
from typing import Any

import torch

from ratpg.training.files import TEMPORARY, written_whole

FILE = "checkpoint.pt"
PREVIOUS = "checkpoint.previous.pt"
VERSION = 3


class BadCheckpoint(ValueError):
    """A checkpoint that is missing or cannot be read; the message names the file and a way out."""


def save(directory: Path, state: dict[str, Any]) -> None:
    """Writes ``checkpoint.pt`` atomically and keeps the one before it as ``checkpoint.previous.pt``.

    A temporary file is written, synced to disk and renamed over the old one, so that a kill or a full disk at any
    moment leaves a whole checkpoint. No other process may save into the folder meanwhile.

    Raises:
        OSError: where the disk is full or not writable; the old checkpoints stay.
    """
    path = directory / FILE
    try:
        with written_whole(path, sole=True) as file:
            torch.save({"version": VERSION, **state}, file)
            if path.exists():
                _keep(path, directory / PREVIOUS)
    except RuntimeError as error:  # torch reports a failed write so
        raise OSError(f"the checkpoint could not be written to {directory}: {error}") from error


def _keep(path: Path, previous: Path) -> None:
    """Gives a file a second name, in the place of the file that had it."""
    for leftover in previous.parent.glob(f"{previous.name}*{TEMPORARY}"):
        leftover.unlink(missing_ok=True)
    link = previous.with_name(f"{previous.name}.{secrets.token_hex(4)}{TEMPORARY}")
    try:
        os.link(path, link)
        link.replace(previous)
    except OSError:  # a file system without hard links
        with path.open("rb") as source, written_whole(previous) as copy:
            shutil.copyfileobj(source, copy)
    finally:
        link.unlink(missing_ok=True)


def load(directory: Path) -> dict[str, Any]:
    """Reads ``checkpoint.pt`` with ``weights_only=True``.

    Raises:
        BadCheckpoint: where there is none, or it is not whole, or it is none that `save` could have written.
    """
    path, advice = directory / FILE, spare(directory)
    if not path.is_file():
        raise BadCheckpoint(f"no checkpoint in {directory}{advice or ': is it the folder of a run?'}")
    try:
        with zipfile.ZipFile(path) as archive:
            _require_whole(archive, path.stat().st_size)
        state = torch.load(path, map_location="cpu", weights_only=True)
        version = state["version"]
    except pickle.UnpicklingError as error:  # all its sums are right: somebody meant it so
        called = re.search(r"(?:GLOBAL|function) ([\w.]+)", str(error))
        what = f"names the function {called[1]}" if called else "holds other things"
        raise BadCheckpoint(
            f"{path} is refused and nothing of it was run: it {what}, and a checkpoint holds plain values and tensors "
            "alone; trust nothing in this folder unless you know who wrote it"
        ) from error
    except Exception as error:
        raise BadCheckpoint(f"{path} cannot be read ({first_line(error)}){advice}") from error
    if version != VERSION:
        raise BadCheckpoint(f"{path} has format {version!r}, this ratpg reads format {VERSION}")
    return state


def spare(directory: Path) -> str:
    """What a message says of the checkpoint before the last one; empty where there is none."""
    path = directory / PREVIOUS
    return f"; an older one is there: mv {path} {directory / FILE}" if path.is_file() else ""


def _require_whole(archive: zipfile.ZipFile, size: int) -> None:
    """Refuses an archive that is damaged, or that would unpack to more than the ``size`` of its file."""
    parts = archive.infolist()
    if any(part.compress_type != zipfile.ZIP_STORED for part in parts) or sum(part.file_size for part in parts) > size:
        raise ValueError("it unpacks to more than it is, which no checkpoint does")
    damaged = archive.testzip()  # whose checksums torch does not look at
    if damaged is not None:
        raise ValueError(f"{damaged} in it is damaged")


def first_line(error: Exception) -> str:
    """Of its message; its type where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
