"""A metrics.csv that is not what the run wrote: told in one line, and rows beyond the checkpoint are cut as ever."""

from collections.abc import Callable
from pathlib import Path

import pytest

from cli.command import Command, assert_refused
from short_runs import ROLLOUT, metrics_but_times

DONE, LONGER = 4, 6
"""Rollouts of the run, and of the run that is resumed."""


def resume_after(damage: Callable[[list[str]], list[str] | None], ratpg: Command, run: Path) -> object:
    """Resumes a run of whose lines, the header first, some are others."""
    assert ratpg.train("CartPole-v1", run, steps=DONE * ROLLOUT).code == 0
    path = run / "metrics.csv"
    lines = damage(path.read_text().splitlines(keepends=True))
    path.unlink()
    if lines is not None:
        path.write_text("".join(lines))
    return ratpg("resume", run, "--total-timesteps", LONGER * ROLLOUT)


LOST = {
    "the file": (lambda lines: None, r"metrics.csv is gone", [5, 6]),
    "all of it": (lambda lines: [], r"metrics.csv is gone", [5, 6]),
    "a row within": (lambda lines: lines[:2] + lines[3:], "lacks 1 of 4 rows, the first at 256 ", [1, 3, 4, 5, 6]),
    "rows at the start": (lambda lines: lines[:1] + lines[3:], "lacks 2 of 4 rows, the first at 128 ", [3, 4, 5, 6]),
    "half of the last": (
        lambda lines: [*lines[:-1], "512,0."],
        "lacks 1 of 4 rows, the first at 512 ",
        [1, 2, 3, 5, 6],
    ),
}


@pytest.mark.parametrize("damage, words, rows", LOST.values(), ids=LOST.keys())
def test_rows_that_are_lost_are_told_of(
    ratpg: Command, damage: Callable[[list[str]], list[str] | None], words: str, rows: list[int], tmp_path: Path
) -> None:
    result = resume_after(damage, ratpg, tmp_path)
    assert result.code == 0
    assert result.err.startswith(f"ratpg: {tmp_path / 'metrics.csv'} ") and result.err.count("\n") == 1
    assert words in result.err
    assert "if you have a whole copy, stop, put it back and resume" in result.err
    assert [int(row["timesteps"]) for row in metrics_but_times(tmp_path)] == [ROLLOUT * row for row in rows]


def test_rows_beyond_the_checkpoint_are_cut_without_a_word(ratpg: Command, tmp_path: Path) -> None:
    result = resume_after(lambda lines: [*lines, lines[-1].replace("512", "640", 1), "768,0"], ratpg, tmp_path)
    assert (result.code, result.err) == (0, "")
    assert len(metrics_but_times(tmp_path)) == LONGER


WRONG = {
    "a row within that was cut off": (lambda lines: [*lines[:2], "256,0.1\n", *lines[3:]], "'256,0.1' is no row of it"),
    "a row of another run": (
        lambda lines: [lines[0], lines[1].replace("128", "100", 1), *lines[2:]],
        "at 100 timesteps",
    ),
    "a row twice": (lambda lines: [*lines[:2], *lines[1:]], "not in order"),
    "no header": (lambda lines: lines[1:], "does not name the columns"),
}


@pytest.mark.parametrize("damage, words", WRONG.values(), ids=WRONG.keys())
def test_rows_that_the_run_did_not_write_are_refused_and_stay(
    ratpg: Command, damage: Callable[[list[str]], list[str] | None], words: str, tmp_path: Path
) -> None:
    result = resume_after(damage, ratpg, tmp_path)
    before = (tmp_path / "metrics.csv").read_text()
    assert_refused(result, "metrics.csv is damaged", words, "take the broken lines out")
    assert (tmp_path / "metrics.csv").read_text() == before
