"""What is written of recorded trainings: the committed tables are theirs, and every figure can be drawn."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

import ablation
import atari
import identity
import kaczmarz
import mujoco_
import mujoco_long
import mujoco_paper
import procgen
import records
import shared_critic
import suite
import trainings
from records import curves_of, results_of, table_of
from report import read_csv
from run import Run, settings_of

ROOT = Path(__file__).parents[2]
SUITES = {"mujoco": mujoco_.RUNS, "mujoco_paper": mujoco_paper.RUNS, "mujoco_long": mujoco_long.RUNS}
TRAININGS = SUITES | {
    "ablation": ablation.runs(),
    "procgen": procgen.RUNS,
    "atari": atari.RUNS,
    "shared_critic": shared_critic.RUNS,
}


def record(runs: Sequence[Run]) -> None:
    """Tables of made-up runs, whose return grows by one every 100,000 steps, from the run's place in the list."""
    rows, points = [], []
    for number, run in enumerate(runs):
        names = {"config": run.fingerprint, "name": run.name, "env": run.env, "seed": str(run.seed)}
        rows.append(
            names
            | {"return": str(number + 10), "commit": "1234567", "versions": "toy=1"}
            | {"settings": json.dumps(run.settings)}
        )
        points += [
            {"config": run.fingerprint, "timesteps": str(100_000 * k), "episode_return_mean": str(number + k)}
            for k in range(1, 11)
        ]
    for path, table in ((records.RUNS, rows), (records.CURVES, points)):
        path.parent.mkdir(exist_ok=True)
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(table[0]))
            writer.writeheader()
            writer.writerows(table)


@pytest.mark.parametrize("name", TRAININGS)
def test_the_committed_tables_are_what_the_recorded_runs_give(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    rows = results_of(TRAININGS[name])
    folder = ROOT / "results" / name
    assert folder.exists() == bool(rows)
    if not rows:
        return
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["trainings"], summary["recorded"]) == (len(TRAININGS[name]), len(rows))
    assert read_csv(folder / "table.csv") == summary["returns"] == table_of(rows)
    if name in SUITES:
        early, aggregated = suite.early(curves_of(SUITES[name])), suite.aggregated(rows)
        assert read_csv(folder / "beside_paper.csv") == suite.beside_paper(rows)
        assert read_csv(folder / "early.csv") == summary["returns_at_300000_steps"] == early
        assert (read_csv(folder / "aggregate.csv") if aggregated else []) == aggregated
        assert summary["interquartile_means"] == aggregated


def test_the_headline_figures_are_those_of_the_measurements() -> None:
    results = {
        name: json.loads((ROOT / "results" / name / "summary.json").read_text()) for name in ("gaussian", "kaczmarz")
    }
    least = {row["gradient"]: float(row["least_cosine"]) for row in read_csv(ROOT / "results/gaussian/table.csv")}
    assert results["gaussian"]["min_cosine_rat_empirical"] == pytest.approx(least["RAT, full coverage"], abs=5e-5)
    assert results["gaussian"]["min_cosine_rat_empirical"] >= 0.99
    assert results["gaussian"]["min_cosine_vanilla_empirical"] == pytest.approx(least["vanilla"], abs=5e-5)
    rates = read_csv(ROOT / "results/kaczmarz/rates.csv")
    for figure, column in (("exact_bound_holds", "exact_bound"), ("noisy_bound_holds", "fresh_bound")):
        assert results["kaczmarz"][figure] is all(row[column] == "holds" for row in rates)
        assert results["kaczmarz"][figure] is True
    assert [f"{rate['measured']:.6g}" for rate in results["kaczmarz"]["rates"].values()] == [
        row["measured_rate"] for row in rates
    ]


@pytest.mark.parametrize(("name", "flags"), [("kaczmarz", kaczmarz.TRAINING), ("identity", identity.TRAINING)])
def test_what_was_measured_is_of_todays_preset(name: str, flags: str) -> None:
    recorded = json.loads((ROOT / "results" / name / "summary.json").read_text())["training"]
    today = settings_of(flags)
    assert {setting: today.get(setting) for setting in recorded} == recorded, f"run `ratpg reproduce {name}` again"


def test_a_suite_with_a_humanoid_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runs = [run for run in mujoco_paper.RUNS if run.name == "rat-paper" and run.env in ("Hopper-v4", "Humanoid-v4")]
    record(runs)
    trainings.write("mujoco_paper", runs, lambda rows: suite.draw("mujoco_paper", runs, rows))
    suite.draw_humanoid("mujoco_paper", runs)
    folder = Path("results/mujoco_paper")
    assert read_csv(folder / "table.csv") == [
        {"run": "rat-paper", "Hopper-v4": "10.5 ± 0.5 (2)", "Humanoid-v4": "12.0 (1)"}
    ]
    assert read_csv(folder / "early.csv") == [
        {"run": "rat-paper", "Hopper-v4": "3.5 ± 0.5 (2)", "Humanoid-v4": "5.0 (1)"}
    ]
    assert json.loads((folder / "summary.json").read_text())["recorded"] == 3
    assert {path.name for path in folder.glob("*.png")} == {"curves.png", "humanoid.png"}


def test_an_ablation_is_drawn_before_all_of_it_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runs = ablation.runs()[:3]
    record(runs)
    trainings.write("ablation", runs, ablation.draw)
    assert [row["run"] for row in read_csv(Path("results/ablation/table.csv"))] == [run.name for run in runs]
    assert Path("results/ablation/ablation.png").stat().st_size > 10_000


def test_times_of_the_identity_are_medians() -> None:
    times = {"0": 1.0, "10": 2.0, "20": 4.0, "30": 100.0}
    rows = [
        {"timesteps": at, "way": "KFAC", "iterations": "1", "milliseconds": str(ms), "cosine": f"0.{index}"}
        for index, (at, ms) in enumerate(times.items())
    ]
    expected = {"way": "KFAC", "iterations": "1", "ms": "3"}
    assert identity.tabulate(rows) == [expected | {f"at_{at}": f"0.{i}00" for i, at in enumerate(times)}]


def test_a_spread_has_two_digits_of_its_deviation() -> None:
    assert kaczmarz.spread([0.00034, 0.00036, 0.00038]) == "0.000360 ± 0.000020"
