"""Tables of finished trainings: what several machines wrote counts once, and what is damaged is named."""

import csv
from pathlib import Path

import pytest

import records
import runner
from report import read_csv
from run import Run

FLAGS = ("--num-envs", "2", "--num-steps", "32", "--hidden", "8")


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_run_that_two_machines_recorded_counts_once() -> None:
    run = Run("toy", "CartPole-v1", 0, 128, FLAGS)
    runner.run_all([run], parallel=1)
    (row,), ((steps, returns),) = records.results_of([run]), records.curves_of([run])["CartPole-v1"]["toy"]
    for table, field in ((records.RUNS, "return"), (records.CURVES, "episode_return_mean")):  # as a merge leaves them
        lines = read_csv(table)
        with table.open("a", newline="") as file:
            csv.DictWriter(file, list(lines[0])).writerows(line | {field: "-1"} for line in lines)
    assert records.results_of([run]) == [row]
    ((again, same),) = records.curves_of([run])["CartPole-v1"]["toy"]
    assert again.tolist() == steps.tolist() and same.tolist() == returns.tolist()


@pytest.mark.parametrize("table", [records.RUNS, records.CURVES])
def test_a_table_that_is_cut_off_says_where(table: Path) -> None:
    run = Run("toy", "CartPole-v1", 0, 64, FLAGS)
    runner.run_all([run], parallel=1)
    whole = table.read_bytes()
    for cut in (2, 5, 12):
        table.write_bytes(whole[:-cut])
        with pytest.raises(SystemExit, match=rf"row 2 of {table} is cut off"):
            records.curves_of([run])
    table.write_bytes(whole[:-5] + whole.splitlines(keepends=True)[-1])  # and gone on with
    with pytest.raises(SystemExit, match=rf"row 2 of {table} is cut off"):
        records.curves_of([run])


def test_an_empty_table_gets_its_header() -> None:
    records.RUNS.parent.mkdir()
    records.RUNS.touch()
    run = Run("toy", "CartPole-v1", 0, 64, FLAGS)
    runner.run_all([run], parallel=1)
    assert [row["name"] for row in records.results_of([run])] == ["toy"]


def test_curves_of_two_machines_are_one_in_order() -> None:
    run = Run("toy", "CartPole-v1", 0, 128, FLAGS)
    runner.run_all([run], parallel=1)
    lines = read_csv(records.CURVES)
    with records.CURVES.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows([lines[0] | {"episode_return_mean": "nan"}, *lines[1:], *lines])
    ((steps, _),) = records.curves_of([run])["CartPole-v1"]["toy"]
    assert steps.tolist() == sorted(steps)


def test_a_table_says_how_many_seeds_stand_behind_a_mean() -> None:
    rows = [{"name": "a", "env": "X", "return": value} for value in ("1", "3")]
    rows += [{"name": "b", "env": "Y", "return": "500"}]
    expected = [{"run": "a", "X": "2.0 ± 1.0 (2)", "Y": "–"}, {"run": "b", "X": "–", "Y": "500 (1)"}]
    assert records.table_of(rows) == expected
