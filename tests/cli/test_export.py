"""``ratpg export``: a run's policy as a file, or one line that says what is missing."""

import importlib.util
import os
from pathlib import Path

import onnxruntime
import pytest
import torch

from cli.command import Command
from ratpg.training.trainer import load_policy


def test_a_run_is_exported(ratpg: Command, tmp_path: Path) -> None:
    assert ratpg.train("CartPole-v1", tmp_path / "run").code == 0
    for flags, path in (([], "run/policy.onnx"), (["--output", tmp_path / "new" / "p.onnx"], "new/p.onnx")):
        result = ratpg("export", tmp_path / "run", *flags)
        assert (result.code, result.out.strip(), result.err) == (0, str(tmp_path / path), "")
        session = onnxruntime.InferenceSession(tmp_path / path)
        policy, _ = load_policy(tmp_path / "run")
        observations = torch.randn(50, 4)
        (actions,) = session.run(["action"], {"observation": observations.numpy()})
        assert (actions == policy.act(observations)).all()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["p.onnx"]


def test_nothing_but_a_file_is_replaced(ratpg: Command, tmp_path: Path) -> None:
    assert ratpg.train("CartPole-v1", tmp_path / "run").code == 0
    (tmp_path / "run" / "policy.onnx").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for flags, path in (([], "run/policy.onnx"), (["--output", tmp_path / "pipe"], "pipe")):
        result = ratpg("export", tmp_path / "run", *flags)
        assert (result.code, result.out) == (2, "")
        assert result.err == f"ratpg: {tmp_path / path} is no file that could be replaced: name another with --output\n"
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize("flags", [[], ["-o"]])
def test_a_link_is_replaced_and_not_followed(ratpg: Command, flags: list[str], tmp_path: Path) -> None:
    """The folder may be from somebody else, and its link may lead to a file of one's own."""
    assert ratpg.train("CartPole-v1", tmp_path / "run").code == 0
    precious, link = tmp_path / "precious", tmp_path / "run" / "policy.onnx"
    precious.write_text("mine")
    link.symlink_to(precious)
    assert ratpg("export", tmp_path / "run", *flags, *([link] if flags else [])).code == 0
    assert precious.read_text() == "mine"
    assert not link.is_symlink()
    assert b"stack_trace" not in link.read_bytes()


def test_a_package_that_is_missing_is_named(ratpg: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ratpg.train("CartPole-v1", tmp_path).code == 0
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    result = ratpg("export", tmp_path)
    assert (result.code, result.err) == (
        2,
        "ratpg: exporting needs onnx and onnxscript: pip install onnx onnxscript\n",
    )
    assert not (tmp_path / "policy.onnx").exists()


def test_what_is_no_run_is_not_exported(ratpg: Command, tmp_path: Path) -> None:
    result = ratpg("export", tmp_path)
    assert result.code == 2 and "checkpoint" in result.err and result.err.count("\n") == 1
