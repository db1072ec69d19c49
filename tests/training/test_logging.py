"""What a run writes: rows of metrics, TensorBoard events, a line of progress."""

import io
from pathlib import Path

import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ratpg.training import logging
from ratpg.training.logging import MetricsWriter, ProgressDisplay, read_metrics


def row(timesteps: int) -> dict[str, float]:
    return {"timesteps": timesteps, "kl": timesteps / 1000, "episode_return_mean": float("nan")}


def write(directory: Path, *timesteps: int, keep_until: int = 0) -> None:
    writer = MetricsWriter(directory, keep_until)
    for steps in timesteps:
        writer.write(row(steps))
    writer.close()


def lines(directory: Path) -> list[str]:
    return (directory / "metrics.csv").read_text().splitlines()


def test_a_row_a_rollout_under_one_header(tmp_path: Path) -> None:
    write(tmp_path, 10, 20)
    assert lines(tmp_path) == ["timesteps,kl,episode_return_mean", "10,0.01,nan", "20,0.02,nan"]


def test_a_row_is_on_disk_as_soon_as_it_is_written(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path)
    writer.write(row(10))
    assert len(lines(tmp_path)) == 2
    writer.close()


def test_rows_after_the_checkpoint_are_dropped(tmp_path: Path) -> None:
    write(tmp_path, 10, 20, 30, 40)
    write(tmp_path, 30, keep_until=20)
    assert [line.split(",")[0] for line in lines(tmp_path)] == ["timesteps", "10", "20", "30"]


@pytest.mark.parametrize("half", ["3", "30", "30,", "30,0.", "30,0.03", "30,0.03,", "30,0.03,na"])
def test_a_row_cut_off_by_a_kill_is_dropped(half: str, tmp_path: Path) -> None:
    write(tmp_path, 10, 20)
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write(half)
    write(tmp_path, 30, keep_until=20)
    assert [line.split(",")[0] for line in lines(tmp_path)] == ["timesteps", "10", "20", "30"]
    assert lines(tmp_path)[-1] == "30,0.03,nan"


def test_a_run_that_starts_anew_keeps_nothing(tmp_path: Path) -> None:
    write(tmp_path, 10, 20)
    write(tmp_path, 10)
    assert len(lines(tmp_path)) == 2


def test_a_resumed_run_whose_metrics_are_gone_writes_new_ones(tmp_path: Path) -> None:
    write(tmp_path, 30, keep_until=20)
    assert [line.split(",")[0] for line in lines(tmp_path)] == ["timesteps", "30"]


def test_metrics_go_to_tensorboard_too(tmp_path: Path) -> None:
    write(tmp_path, 10, 20)
    events = EventAccumulator(str(tmp_path)).Reload().Scalars("kl")
    assert [event.step for event in events] == [10, 20]
    assert [event.value for event in events] == pytest.approx([0.01, 0.02])


def test_metrics_are_read_back_by_column(tmp_path: Path) -> None:
    write(tmp_path, 10, 20)
    metrics = read_metrics(tmp_path)
    assert metrics["timesteps"] == [10, 20]
    assert metrics["kl"] == [0.01, 0.02]


def test_metrics_of_a_run_that_has_written_none_are_empty(tmp_path: Path) -> None:
    write(tmp_path)
    assert read_metrics(tmp_path) == {}


@pytest.mark.parametrize("half", ["30", "30,0.03"])
def test_metrics_of_a_run_under_way_or_killed_are_its_whole_rows(half: str, tmp_path: Path) -> None:
    write(tmp_path, 10, 20)
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write(half)
    assert read_metrics(tmp_path)["timesteps"] == [10, 20]


@pytest.mark.parametrize("damage", [b"2x6,0.1,0.1\n", b"\xff,0.1,0.1\n", bytes(200_000)])
def test_damaged_metrics_are_named_and_stay(damage: bytes, tmp_path: Path) -> None:
    write(tmp_path, 10, 20)
    path = tmp_path / "metrics.csv"
    with path.open("ab") as file:
        file.write(damage)
    before = path.read_bytes()
    for read in (read_metrics, lambda folder: MetricsWriter(folder, keep_until=20)):
        with pytest.raises(ValueError, match=r"metrics\.csv is damaged"):
            read(tmp_path)
    assert path.read_bytes() == before


def test_a_folder_without_metrics_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"is it the folder of a run\?"):
        read_metrics(tmp_path)


def shown(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(logging, "PLAIN_INTERVAL", 0.0)
    output = io.StringIO()
    console = Console(file=output, force_terminal=terminal, width=160)
    with ProgressDisplay(1000, 0, console) as display:
        display.show({"timesteps": 250, "episode_return_mean": 123.4, "kl": 0.0123, "sps": 50.0})
    return output.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_shows_steps_return_kl_speed_and_time_left(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(terminal, monkeypatch)
    for part in ("250/1000", "return 123.4", "KL 0.0123", "50 steps/s"):
        assert part in text
    assert ("15 s left" in text) or (terminal and ":" in text)  # 750 steps at 50 a second


def test_a_file_with_other_columns_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("timesteps,kl,loss\n10,0.01,3\n")
    writer = MetricsWriter(tmp_path, keep_until=10)
    with pytest.raises(ValueError, match=r"metrics\.csv has other columns"):
        writer.write(row(20))
    writer.close()
    assert lines(tmp_path) == ["timesteps,kl,loss", "10,0.01,3"]


def test_a_training_goes_on_where_nobody_reads_its_output(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr("sys.stdout", Closed())
    logging.say("a line")
