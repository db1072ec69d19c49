"""Environments that misbehave: nothing that was learnt is lost, and one line says what happened."""

import fcntl
import os
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import IO

import pytest

from cli.command import PATIENCE, Command, assert_refused, start, wait_for_rows
from faults.hostile_envs import FAILURES, FLOOD, LENGTH, Plain, Wanders
from ratpg.training import checkpoint
from short_runs import ROLLOUT, metrics_but_times

HERE = Path(__file__).parent
PIPE = 1 << 16
"""Bytes that a pipe holds on Linux."""


def waiting_bytes(pipe: IO[str] | None) -> int:
    """What was written to a pipe and not read yet."""
    assert pipe is not None
    return int.from_bytes(fcntl.ioctl(pipe.fileno(), termios.FIONREAD, bytes(4)), sys.byteorder)


@pytest.mark.parametrize("name", FAILURES)
def test_an_environments_error_loses_nothing(ratpg: Command, name: str, tmp_path: Path) -> None:
    """It fails in the third rollout after each start."""
    run = tmp_path / "run"
    what = [rf"{name}(: .*{FAILURES[name].args[-1]})?" if FAILURES[name].args else name]
    what += [r"\(.*hostile_envs\.py, line \d+\)", f"ratpg resume {run}$"]
    result = ratpg.train(f"Hostile{name}-v0", run, "--checkpoint-interval", 1e6, steps=5 * ROLLOUT)
    assert_refused(result, f"began at {2 * ROLLOUT} timesteps", *what)
    assert checkpoint.load(run)["timesteps"] == 2 * ROLLOUT
    assert_refused(ratpg("resume", run), f"began at {4 * ROLLOUT} timesteps", *what)
    assert "done: 640 steps" in ratpg("resume", run).out
    assert [int(row["timesteps"]) for row in metrics_but_times(run)] == [ROLLOUT * n for n in range(1, 6)]


def test_an_error_in_eval_is_one_line(ratpg: Command, tmp_path: Path) -> None:
    assert ratpg.train("HostileRuntimeError-v0", tmp_path / "run").code == 0
    result = ratpg("eval", tmp_path / "run", "--episodes", 20, "--num-envs", 1)
    assert_refused(result, r"RuntimeError: simulator lost \(.*hostile_envs\.py, line \d+\)$")


def test_an_environment_that_cannot_be_made_says_where(ratpg: Command, tmp_path: Path) -> None:
    result = ratpg.train("HostileUnmade-v0", tmp_path / "run")
    assert_refused(result, r"'HostileUnmade-v0' cannot be made: RuntimeError: no simulator answers \(.*, line \d+\)$")
    assert not (tmp_path / "run").exists()


def test_one_that_cannot_be_closed_takes_no_result_along(ratpg: Command, tmp_path: Path) -> None:
    run = tmp_path / "run"
    for result in (ratpg.train("HostileClosesBadly-v0", run), ratpg("eval", run)):
        assert result.code == 0
        assert result.err.startswith("ratpg: the environments could not be closed: RuntimeError: simulator is gone (")
        assert result.err.count("\n") == 1
        assert "done: 256 steps" in result.out or f'"mean": {LENGTH}' in result.out


def test_a_run_stays_in_its_folder_wherever_the_environment_goes(
    ratpg: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "away").mkdir()
    monkeypatch.setattr(Wanders, "where", tmp_path / "away", raising=False)
    for command in (["train"], ["resume", "run", "--total-timesteps", 512], ["export", "run"], ["eval", "run"]):
        monkeypatch.chdir(tmp_path)
        train = command == ["train"]
        result = ratpg.train("HostileWanders-v0", Path("run")) if train else ratpg(*command)
        assert (result.code, result.err) == (0, "")
        assert Path.cwd() == (tmp_path if command[0] == "export" else tmp_path / "away")
    assert len(metrics_but_times(tmp_path / "run")) == 4
    assert (tmp_path / "run" / "policy.onnx").is_file()
    assert os.listdir(tmp_path / "away") == []


def test_eval_makes_no_more_copies_than_the_run_did_and_one_is_enough(ratpg: Command, tmp_path: Path) -> None:
    assert ratpg.train("HostilePlain-v0", tmp_path / "run").code == 0
    for flags, copies in ([], 4), (["--num-envs", 1], 1), (["--num-envs", 50], 9):
        before = Plain.made
        result = ratpg("eval", tmp_path / "run", "--episodes", 9, *flags)
        assert f'"returns": {[float(LENGTH)] * 9}' in result.out
        assert Plain.made - before == copies
    assert_refused(ratpg("eval", tmp_path / "run", "--num-envs", 0), "num_envs", "at least 1")


def test_ctrl_c_while_the_environment_writes_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{HERE}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    run = tmp_path / "run"
    flags = ["--backend", "gymnasium", "--num-envs", 4, "--num-steps", 32, "--threads", 1, "--hidden", 16, 16]
    process = start("train", "--env", "hostile_envs:HostileFloods-v0", "--run-dir", run, *flags)
    try:
        wait_for_rows(process, run, 2)
        deadline = time.monotonic() + PATIENCE
        while waiting_bytes(process.stderr) < PIPE:  # until it waits in the midst of writing
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
        out, err = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    assert process.returncode == 130
    assert "Traceback" not in err and "reentrant" not in err
    assert err.count(".") >= FLOOD and "stopping after this rollout" in err
    assert f"continue with: ratpg resume {run} --trust-env" in out
