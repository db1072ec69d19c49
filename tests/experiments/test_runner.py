"""Trainings that were cut off go on where they were, and are recorded once."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import records
import runner
from ratpg.training import checkpoint
from report import read_csv
from run import Run

FLAGS = ("--num-envs", "2", "--num-steps", "32", "--hidden", "8")


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def wait_for_rows(process: subprocess.Popen[bytes], metrics: Path) -> None:
    deadline = time.monotonic() + 120
    while not (metrics.exists() and len(metrics.read_text().splitlines()) > 2):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)


def cut_off(run: Run) -> int:
    """Starts a run and interrupts it; returns how many steps it has then."""
    run.directory.parent.mkdir(parents=True)
    process = subprocess.Popen([sys.executable, "-m", "ratpg.cli", *run.command.split()[1:]], stderr=subprocess.DEVNULL)
    metrics = run.directory / "metrics.csv"
    wait_for_rows(process, metrics)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    return int(read_csv(metrics)[-1]["timesteps"])


def test_a_training_that_was_cut_off_goes_on_and_is_recorded_once(capsys: pytest.CaptureFixture[str]) -> None:
    run = Run("toy", "CartPole-v1", 0, 40_000, FLAGS)
    reached = cut_off(run)
    assert reached < 40_000
    assert runner.run_all([run], parallel=1) == []
    assert f"exit 0: ratpg resume {run.directory}" in capsys.readouterr().out
    (row,) = read_csv(records.RUNS)
    assert (row["name"], row["env"], row["seed"]) == ("toy", "CartPole-v1", "0")
    assert int(row["steps"]) >= 40_000
    assert records.results_of([run]) == [row]
    points = [int(point["timesteps"]) for point in read_csv(records.CURVES)]
    assert points == sorted(points)
    assert points[0] < reached < points[-1] == int(row["steps"])

    assert runner.run_all([run], parallel=1) == []  # neither trained nor recorded again
    assert capsys.readouterr().out == ""
    assert len(read_csv(records.RUNS)) == 1


def test_an_interrupt_reaches_the_trainings_which_save_themselves() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(Path(runner.__file__).parent)!r})\n"
        "from run import Run; from runner import run_all\n"
        f"run_all([Run('toy', 'CartPole-v1', seed, 10**9, {FLAGS!r}) for seed in (0, 1)], parallel=1)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    first, second = (Run("toy", "CartPole-v1", seed, 10**9, FLAGS).directory for seed in (0, 1))
    try:
        wait_for_rows(process, first / "metrics.csv")
        process.send_signal(signal.SIGINT)  # to it alone
        assert process.wait(60) != 0
    finally:
        process.kill()
    reached = int(read_csv(first / "metrics.csv")[-1]["timesteps"])
    assert checkpoint.load(first)["timesteps"] == reached >= 128
    assert not second.exists() and not records.RUNS.exists()


def test_a_folder_with_other_settings_is_set_aside_and_kept() -> None:
    run = Run("toy", "CartPole-v1", 0, 128, FLAGS)
    runner.run_all([Run("toy", "CartPole-v1", 0, 64, FLAGS)], parallel=1)
    first = read_csv(run.directory / "metrics.csv")
    runner.run_all([run], parallel=1)
    assert len(read_csv(run.directory / "metrics.csv")) == 2
    (aside,) = run.directory.parent.glob(f"*-{run.directory.name}")
    assert read_csv(aside / "metrics.csv") == first
    assert [row["steps"] for row in read_csv(records.RUNS)] == ["64", "128"]


def test_a_training_that_had_other_settings_is_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a default is changed while trainings wait: each is a process of its own, with the code of its start."""
    run = Run("toy", "CartPole-v1", 0, 128, FLAGS)
    assert run.settings["gamma"] != 0.5
    flags = Run.command
    monkeypatch.setattr(Run, "command", property(lambda self: f"{flags.fget(self)} --gamma 0.5"))
    assert runner.run_all([run], parallel=1) == [str(run.directory)]
    assert not records.RUNS.exists()
    monkeypatch.undo()


def test_a_run_that_cannot_be_resumed_is_set_aside_and_trained_anew() -> None:
    run = Run("toy", "CartPole-v1", 0, 128, FLAGS)
    runner.run_all([Run("toy", "CartPole-v1", 0, 64, FLAGS)], parallel=1)
    state = checkpoint.load(run.directory)
    config = json.loads(state["config"]) | {"total_timesteps": 128}
    del config["stagger"]  # as if there had been no such option
    checkpoint.save(run.directory, state | {"config": json.dumps(config)})
    (run.directory / "config.json").write_text(json.dumps(config | {"stagger": True}))
    assert runner.run_all([run], parallel=1) == []
    assert len(list(run.directory.parent.glob(f"*-{run.directory.name}"))) == 1


def test_a_run_is_complete_once_it_is_saved() -> None:
    run = Run("toy", "CartPole-v1", 0, 128, FLAGS)
    runner.run_all([run], parallel=1)
    assert runner._is_complete(run)
    checkpoint.save(run.directory, checkpoint.load(run.directory) | {"timesteps": 64})
    assert not runner._is_complete(run)


def test_a_training_about_to_start_is_stopped_where_recording_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(run: Run) -> None:
        raise OSError(28, "No space left on device")

    def slow(folder: str) -> str:
        time.sleep(1.0)
        return "commit"

    monkeypatch.setattr(records, "record", full)
    monkeypatch.setattr(runner, "commit", slow)
    runs = [Run("toy", "CartPole-v1", seed, steps, FLAGS) for seed, steps in ((0, 64), (1, 200_000))]
    with pytest.raises(OSError, match="No space"):
        runner.run_all(runs, parallel=1)
    assert not runner._is_complete(runs[1])


def test_a_run_that_was_finished_by_hand_is_recorded() -> None:
    run = Run("toy", "CartPole-v1", 0, 64, FLAGS)
    subprocess.run([sys.executable, "-m", "ratpg.cli", *run.command.split()[1:]], check=True, capture_output=True)
    assert runner.run_all([run], parallel=1) == []
    ((row),) = records.results_of([run])
    assert (row["commit"], row["versions"]) == ("unknown", "unknown")
    other = Run("toy", "CartPole-v1", 0, 64, (*FLAGS, "--backend", "gymnasium"))
    assert not runner._is_of(other)
