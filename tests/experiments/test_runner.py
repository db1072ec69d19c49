"""Trainings that were cut off go on where they were, and are recorded once."""

import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import runner
from ratpg.training import checkpoint
from runner import Run

FLAGS = ("--num-envs", "2", "--num-steps", "32", "--hidden", "8")


def rows_of(table: Path) -> list[dict[str, str]]:
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


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
    run.directory.with_name(f"{run.directory.name}.config").write_text(json.dumps(run.settings))
    process = subprocess.Popen([sys.executable, "-m", "ratpg.cli", *run.command.split()[1:]], stderr=subprocess.DEVNULL)
    metrics = run.directory / "metrics.csv"
    wait_for_rows(process, metrics)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    return int(rows_of(metrics)[-1]["timesteps"])


def test_a_training_that_was_cut_off_goes_on_and_is_recorded_once(capsys: pytest.CaptureFixture[str]) -> None:
    run = Run("toy", "CartPole-v1", 0, 40_000, FLAGS)
    reached = cut_off(run)
    assert reached < 40_000
    assert runner.run_all([run], parallel=1) == []
    assert f"exit 0: ratpg resume {run.directory}" in capsys.readouterr().out
    (row,) = rows_of(runner.RUNS)
    assert (row["name"], row["env"], row["seed"]) == ("toy", "CartPole-v1", "0")
    assert int(row["steps"]) >= 40_000
    assert runner.results_of([run]) == [row]
    points = [int(point["timesteps"]) for point in rows_of(runner.CURVES)]
    assert points == sorted(points)
    assert points[0] < reached < points[-1] == int(row["steps"])

    assert runner.run_all([run], parallel=1) == []  # neither trained nor recorded again
    assert capsys.readouterr().out == ""
    assert len(rows_of(runner.RUNS)) == 1


def test_an_interrupt_reaches_the_trainings_which_save_themselves() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(Path(runner.__file__).parent)!r})\n"
        "from runner import Run, run_all\n"
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
    reached = int(rows_of(first / "metrics.csv")[-1]["timesteps"])
    assert checkpoint.load(first)["timesteps"] == reached >= 128
    assert not second.exists() and not runner.RUNS.exists()


def test_a_run_that_two_machines_recorded_counts_once() -> None:
    run = Run("toy", "CartPole-v1", 0, 128, FLAGS)
    runner.run_all([run], parallel=1)
    (row,), ((steps, returns),) = runner.results_of([run]), runner.curves_of([run])["CartPole-v1"]["toy"]
    for table, field in ((runner.RUNS, "return"), (runner.CURVES, "episode_return_mean")):  # as a merge leaves them
        lines = rows_of(table)
        with table.open("a", newline="") as file:
            csv.DictWriter(file, list(lines[0])).writerows(line | {field: "-1"} for line in lines)
    assert runner.results_of([run]) == [row]
    ((again, same),) = runner.curves_of([run])["CartPole-v1"]["toy"]
    assert again.tolist() == steps.tolist() and same.tolist() == returns.tolist()


def test_a_folder_with_other_settings_is_set_aside_and_kept() -> None:
    run = Run("toy", "CartPole-v1", 0, 128, FLAGS)
    runner.run_all([Run("toy", "CartPole-v1", 0, 64, FLAGS)], parallel=1)
    first = rows_of(run.directory / "metrics.csv")
    runner.run_all([run], parallel=1)
    assert len(rows_of(run.directory / "metrics.csv")) == 2
    (aside,) = run.directory.parent.glob(f"*-{run.directory.name}")
    assert rows_of(aside / "metrics.csv") == first
    assert [row["steps"] for row in rows_of(runner.RUNS)] == ["64", "128"]
