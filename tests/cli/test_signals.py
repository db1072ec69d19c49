"""Real processes that are interrupted and killed."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cli.command import PATIENCE, Command, start, wait_for_rows
from ratpg.training import checkpoint
from ratpg.training.presets import CHOSEN_ON
from short_runs import FLAGS, ROLLOUT, metrics_but_times

ENDLESS = CHOSEN_ON
"""More steps than a test waits for; no more than those above which a preset depends on how long a run is to be."""
UNANNEALED = "--no-anneal-kl-band"
"""Then nothing else depends on it either, and a run that was resumed for more steps is as one that had them."""


def train_endlessly(env_id: str, run_dir: Path, *flags: object) -> tuple[object, ...]:
    where = ("--env", env_id, "--run-dir", run_dir, "--backend", "gymnasium", "--total-timesteps", ENDLESS)
    return ("train", *where, *FLAGS, UNANNEALED, *flags)


def test_ctrl_c_leaves_a_checkpoint_of_the_last_rollout_and_exits_130(ratpg: Command, tmp_path: Path) -> None:
    process = start(*train_endlessly("CartPole-v1", tmp_path / "run"))
    try:
        wait_for_rows(process, tmp_path / "run", 2)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert process.returncode == 130
    assert f"ratpg resume {tmp_path / 'run'}" in out
    assert "Traceback" not in err
    done = checkpoint.load(tmp_path / "run")["timesteps"]
    assert done == int(metrics_but_times(tmp_path / "run")[-1]["timesteps"]) >= 2 * ROLLOUT
    resumed = ratpg("resume", tmp_path / "run", "--total-timesteps", done + ROLLOUT)
    assert resumed.code == 0
    assert ratpg.train("CartPole-v1", tmp_path / "whole", UNANNEALED, steps=done + ROLLOUT).code == 0
    assert metrics_but_times(tmp_path / "run") == metrics_but_times(tmp_path / "whole")


def kill_and_resume(ratpg: Command, env_id: str, kills: int, tmp_path: Path) -> None:
    """Kills a run, and its resumptions, at moments that are nobody's choice; the end is as if nothing had been."""
    run_dir, rows = tmp_path / "run", 0
    for attempt in range(kills):
        command = train_endlessly(env_id, run_dir, "--checkpoint-interval", 0) if not attempt else ("resume", run_dir)
        process = start(*command)
        try:
            wait_for_rows(process, run_dir, rows + 2)
        finally:
            process.kill()
            process.communicate()
        assert process.returncode == -signal.SIGKILL
        written, kept = len(metrics_but_times(run_dir)), checkpoint.load(run_dir)["timesteps"] // ROLLOUT
        assert written - 2 <= kept <= written  # a checkpoint follows every row
        rows = written
    total = (rows + 2) * ROLLOUT
    assert ratpg("resume", run_dir, "--total-timesteps", total).code == 0
    assert ratpg.train(env_id, tmp_path / "whole", UNANNEALED, steps=total).code == 0
    assert metrics_but_times(run_dir) == metrics_but_times(tmp_path / "whole")
    assert not list(run_dir.glob("*.tmp"))


def test_a_killed_run_resumes_from_its_last_checkpoint(ratpg: Command, tmp_path: Path) -> None:
    kill_and_resume(ratpg, "CartPole-v1", 1, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("env_id", ["Pendulum-v1", "Hopper-v4"])
def test_a_run_killed_over_and_over_ends_as_one_that_was_not(ratpg: Command, env_id: str, tmp_path: Path) -> None:
    kill_and_resume(ratpg, env_id, 5, tmp_path)


def test_a_reader_that_goes_away_does_not_end_the_training(tmp_path: Path) -> None:
    process = start(*train_endlessly("CartPole-v1", tmp_path / "run"))
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        wait_for_rows(process, tmp_path / "run", 3)
        process.send_signal(signal.SIGHUP)  # a terminal's end
        process.wait(timeout=PATIENCE)
    finally:
        process.kill()
        process.stderr.close()
    assert process.returncode == 130
    assert checkpoint.load(tmp_path / "run")["timesteps"] >= 3 * ROLLOUT


def test_ctrl_c_while_the_command_loads_is_one_line() -> None:
    """Whatever is in the midst of being imported, and would swallow an exception."""
    code = (
        "import contextlib, importlib, os, signal, sys\n"
        "def load(name):\n"
        "    with contextlib.suppress(BaseException):\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "importlib.import_module = load\n"
        "from ratpg.cli import main\n"
        "sys.exit(main(['train', '--env', 'CartPole-v1']))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (130, "ratpg: interrupted\n")


def test_help_does_not_wait_for_torch() -> None:
    code = "import sys; from ratpg.cli import main; main(['--help']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0
