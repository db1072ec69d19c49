"""Checkpoints: written whole or not at all, loaded without running code."""

import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import torch

FILE = "checkpoint.pt"
PREVIOUS = "checkpoint.previous.pt"
VERSION = 3


class BadCheckpoint(ValueError):
    """A checkpoint that is missing or cannot be read; the message names the file and a way out."""


def save(directory: Path, state: dict[str, Any]) -> None:
    """Writes ``checkpoint.pt`` atomically and keeps the one before it as ``checkpoint.previous.pt``.

    A temporary file is written, synced to disk and renamed over the old one, so that a kill or a full disk at any
    moment leaves a whole checkpoint.

    Raises:
        OSError: where the disk is full or not writable; the old checkpoints stay.
    """
    path, previous, temporary = directory / FILE, directory / PREVIOUS, directory / f"{FILE}.tmp"
    try:
        with temporary.open("wb") as file:
            torch.save({"version": VERSION, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            link = directory / f"{PREVIOUS}.tmp"
            link.unlink(missing_ok=True)
            try:
                os.link(path, link)
            except OSError:  # a file system without hard links
                shutil.copy2(path, link)
            link.replace(previous)
        temporary.replace(path)
    except RuntimeError as error:  # torch reports a failed write so
        raise OSError(f"the checkpoint could not be written to {directory}: {error}") from error
    finally:
        for leftover in (temporary, directory / f"{PREVIOUS}.tmp"):
            leftover.unlink(missing_ok=True)
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def load(directory: Path) -> dict[str, Any]:
    """Reads ``checkpoint.pt`` with ``weights_only=True``.

    Raises:
        BadCheckpoint: where there is none, or it is not whole.
    """
    path, spare = directory / FILE, directory / PREVIOUS
    advice = f"; an older one is there: mv {spare} {path}" if spare.is_file() else ""
    if not path.is_file():
        raise BadCheckpoint(f"no checkpoint in {directory}{advice or ': is it the folder of a run?'}")
    try:
        with zipfile.ZipFile(path) as archive:  # whose checksums torch does not look at
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"{damaged} in it is damaged")
        state = torch.load(path, map_location="cpu", weights_only=True)
        version = state["version"]
    except Exception as error:
        raise BadCheckpoint(f"{path} cannot be read ({first_line(error)}){advice}") from error
    if version != VERSION:
        raise BadCheckpoint(f"{path} has format {version}, this ratpg reads format {VERSION}")
    return state


def first_line(error: Exception) -> str:
    """Of its message; its type where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
