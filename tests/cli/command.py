"""Runs of the ``ratpg`` command, in this process and in one of their own."""

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from ratpg.cli import main
from short_runs import FLAGS

PATIENCE = 120.0
"""Seconds that a process may take before a test gives up."""


@dataclass(frozen=True)
class Result:
    """What a command left."""

    code: int
    out: str
    err: str


def assert_refused(result: Result, *needles: str) -> None:
    """Exit code 2, and one line that says what is wrong."""
    assert result.code == 2
    lines = result.err.splitlines()
    assert len(lines) == 1, result.err
    assert lines[0].startswith("ratpg: ")
    assert not re.search("[─│╭╰]|---", lines[0])  # the drawing of a box around a message
    for needle in needles:
        assert re.search(needle, lines[0]), f"{needle!r} not in {lines[0]!r}"


class Command:
    """Calls ``ratpg`` in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]):
        self._capsys = capsys

    def __call__(self, *arguments: object) -> Result:
        self._capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = self._capsys.readouterr()
        return Result(code, captured.out, captured.err)

    def train(self, env: str, run_dir: Path, *flags: object, steps: int = 256, backend: str = "gymnasium") -> Result:
        """A short run."""
        where = ["--env", env, "--run-dir", run_dir, "--backend", backend, "--total-timesteps", steps]
        return self("train", *where, *FLAGS, *flags)


def start(*arguments: object) -> subprocess.Popen[str]:
    """The command in a process of its own, that signals can be sent to."""
    return subprocess.Popen(
        [sys.executable, "-m", "ratpg.cli", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # which tests under nohup have ignored
    )


def wait_for_rows(process: "subprocess.Popen[str]", run_dir: Path, rows: int) -> None:
    """Returns once the run has written so many rows of metrics."""
    deadline = time.monotonic() + PATIENCE
    metrics = run_dir / "metrics.csv"
    while not metrics.is_file() or metrics.read_bytes().count(b"\n") < 1 + rows:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "the run writes no metrics"
        time.sleep(0.02)


def wait_for(path: Path) -> None:
    """Returns once there is such a file."""
    deadline = time.monotonic() + PATIENCE
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} was not written"
        time.sleep(0.02)
