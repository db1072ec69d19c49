"""Experiments made of trainings: what is run, what is skipped, and what each ablation changes."""

import csv
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import ablation
import records
import runner
import trainings
from ratpg import AdvantageTransform
from ratpg.cli.arguments import parse_train
from run import Run

RUNS = [Run("toy", "Hopper-v4", seed, 1000) for seed in range(3)]
ENV = "Hopper-v4"


@pytest.mark.parametrize(("flags", "seeds"), [([], [0, 1, 2]), (["--seeds", "1", "2"], [1, 2]), (["--redraw"], [])])
def test_seeds_can_be_split_over_machines(
    flags: list[str], seeds: list[int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[Run] = []
    monkeypatch.setattr(trainings, "run_all", lambda runs, parallel: started.extend(runs) or [])
    monkeypatch.setattr(trainings, "results_of", lambda runs: [])
    monkeypatch.setattr(sys, "argv", ["toy", *flags])
    trainings.run("Toy.", "toy", RUNS)
    assert [run.seed for run in started] == seeds
    assert "0 of 3 trainings are recorded" in capsys.readouterr().out


def test_what_is_tried_out_is_shorter_and_not_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "RUNS", tmp_path / "runs.csv")
    started: list[Run] = []
    monkeypatch.setattr(runner, "_train", lambda run: started.append(run) or True)
    monkeypatch.setattr(records, "record", lambda run: pytest.fail("recorded"))
    monkeypatch.setattr(trainings, "write", lambda *_: pytest.fail("written"))
    monkeypatch.setattr(sys, "argv", ["toy", "--seeds", "1", "--steps", "500"])
    trainings.run("Toy.", "toy", RUNS)
    assert [(run.seed, run.steps) for run in started] == [(1, 500)]
    assert started[0].directory != RUNS[1].directory  # which may hold what is not finished


@pytest.mark.parametrize("seeds", [["7"], ["1", "7"]])
def test_a_seed_that_no_training_has_is_an_error(seeds: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["toy", "--seeds", *seeds])
    with pytest.raises(SystemExit, match="no training here has the seed 7: choose among 0, 1, 2"):
        trainings.run("Toy.", "toy", RUNS)


def test_what_is_recorded_is_written_though_a_training_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "RUNS", tmp_path / "runs.csv")
    monkeypatch.setattr(runner, "_train", lambda run: run.seed != 1)
    recorded, written = [], []
    monkeypatch.setattr(records, "record", lambda run: recorded.append(run.seed))
    monkeypatch.setattr(trainings, "write", lambda *_: written.append(True))
    monkeypatch.setattr(sys, "argv", ["toy"])
    with pytest.raises(SystemExit, match="these runs failed.*Hopper-v4-toy-s1"):
        trainings.run("Toy.", "toy", RUNS)
    assert (sorted(recorded), written) == ([0, 2], [True])


def test_what_is_recorded_is_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "runs.csv"
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["name", "settings"])
        writer.writeheader()
        writer.writerow({"name": "toy", "settings": json.dumps(RUNS[1].settings)})
    monkeypatch.setattr(records, "RUNS", table)
    trained: list[int] = []
    monkeypatch.setattr(runner, "_train", lambda run: trained.append(run.seed) or True)
    monkeypatch.setattr(records, "record", lambda run: None)
    runner.run_all(RUNS, parallel=1)
    assert sorted(trained) == [0, 2]


def test_ctrl_c_starts_none_of_the_trainings_that_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: object) -> Iterator[object]:
        raise KeyboardInterrupt

    monkeypatch.setattr(records, "RUNS", tmp_path / "runs.csv")
    monkeypatch.setattr(runner, "as_completed", interrupted)
    trained: list[int] = []
    monkeypatch.setattr(runner, "_train", lambda run: trained.append(run.seed) or time.sleep(0.5))
    with pytest.raises(KeyboardInterrupt):
        runner.run_all(RUNS, parallel=1)
    assert trained in ([], [0])


def test_a_row_from_before_an_option_is_no_run_of_todays_default() -> None:
    run = Run("toy", "Hopper-v4", 0, 1000)
    older = {name: value for name, value in run.settings.items() if name != "algorithm.weight_decay"}
    assert not run.owns({"settings": json.dumps(older)})
    without = Run("toy", "Hopper-v4", 0, 1000, ("--weight-decay", "0"))
    assert without.owns({"settings": json.dumps(older)})
    same = {name: value for name, value in run.settings.items() if name != "algorithm.curvature_rows"}
    assert run.owns({"settings": json.dumps(same)})  # whose default leaves things as they were


def test_a_run_on_another_device_is_the_same_run() -> None:
    there = Run("toy", "Hopper-v4", 0, 1000, device="cuda")
    assert "--device cuda" in there.command
    assert (there.settings["device"], RUNS[0].settings["device"]) == ("cuda", "cpu")
    assert there.fingerprint == RUNS[0].fingerprint
    assert RUNS[0].owns({"settings": json.dumps(there.settings)})
    assert there.owns({"settings": json.dumps(RUNS[0].settings)})
    assert not there.owns({"settings": json.dumps(RUNS[1].settings)})


@pytest.mark.parametrize("preset", ablation.PRESETS)
def test_each_ablation_changes_what_it_names_and_no_more(preset: str) -> None:
    variants = ablation.variants(ENV, preset)
    base = Run("base", ENV, 0, 1000, variants.pop(f"{preset}-base")).settings
    assert len(variants) >= 7
    transform = {"algorithm.damping", "algorithm.step_size", "algorithm.step_size_bounds"}
    words = {
        "no-transform": transform,
        "clip": {"algorithm.max_step_norm"},
        "decay": {"algorithm.kaczmarz_decay"},
        "damping": {"algorithm.damping"},
        "critic": {"algorithm.critic"},
        "minibatches": {"algorithm.minibatches"},
        "fixed-step": {"algorithm.step_size_bounds"},
    }
    for name, flags in variants.items():
        settings = Run(name, ENV, 0, 1000, flags).settings
        changed = {key for key in settings if settings[key] != base[key]}
        assert changed == set().union(*(keys for word, keys in words.items() if word in name)), name


@pytest.mark.parametrize("preset", ablation.PRESETS)
def test_without_the_transform_a_step_is_the_vanilla_gradients(preset: str) -> None:
    kept = parse_train(["--env", ENV, "--preset", preset]).algorithm
    off = parse_train(["--env", ENV, "--preset", preset, *ablation.without_transform(ENV, preset)]).algorithm
    torch.manual_seed(0)
    layer, x, y = torch.nn.Linear(4, 1), 3 * torch.randn(64, 4), torch.randn(64)
    transform = AdvantageTransform(layer, off.damping)
    with transform.record():
        log_prob = layer(x).squeeze(1)
    step = off.step_size * transform(log_prob, y).direction["weight"]
    (gradient,) = torch.autograd.grad((y * log_prob).mean(), layer.weight)
    expected = ablation.FIRST * kept.step_size * gradient / kept.damping
    torch.testing.assert_close(step, expected, rtol=2e-3, atol=0.0)
