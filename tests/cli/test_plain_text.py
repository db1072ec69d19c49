"""Output for terminals that know ASCII alone."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cli.command import Command
from ratpg.cli.plain_text import print_anything


def test_eval_speaks_ascii(ratpg: Command, tmp_path: Path) -> None:
    assert ratpg.train("CartPole-v1", tmp_path).code == 0
    command = [sys.executable, "-m", "ratpg.cli", "eval", str(tmp_path), "--episodes", "1", "--summary"]
    result = subprocess.run(command, capture_output=True, env=os.environ | {"PYTHONIOENCODING": "ascii", "LANG": "C"})
    assert (result.returncode, result.stderr) == (0, b"")
    assert b" +- 0.0; run in " in result.stdout


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_every_text_can_be_printed(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding=encoding))
    print_anything()
    print("λ ± 漢", os.fsdecode(b"\xff"), end="", flush=True)
    texts = {"ascii": b"lambda +- ? \xff", "latin-1": b"lambda \xb1 ? \xff", "utf-8": "λ ± 漢 ".encode() + b"\xff"}
    assert raw.getvalue() == texts[encoding]


def test_messages_do_not_steer_the_terminal(ratpg: Command) -> None:
    assert ratpg("\x1b]0;title\x07\x1b[2J").err.startswith("ratpg: unknown command '?]0;title??[2J'")
