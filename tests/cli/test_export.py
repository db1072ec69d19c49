"""``ratpg export``: a run's policy as a file, or one line that says what is missing."""

import importlib.util
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
