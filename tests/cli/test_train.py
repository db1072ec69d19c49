"""`ratpg train`, `resume`, `eval` and `plot`, from start to end."""

import dataclasses
import json
import re
import signal
from pathlib import Path

import numpy as np
import pytest

from cli.command import Command
from ratpg import __version__
from ratpg.algorithms import RATConfig
from ratpg.cli.arguments import BadArguments, parse_train
from ratpg.training import checkpoint
from ratpg.training.config import TrainConfig
from ratpg.training.logging import ProgressDisplay
from ratpg.training.presets import PRESETS, preset
from short_runs import ROLLOUT, metrics_but_times

COLUMNS = """timesteps wall_time episode_return_mean episode_length_mean sps kl entropy learning_rate grad_norm
value_loss""".split()


@pytest.mark.parametrize("backend", ["envpool", "gymnasium"])
@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1", "Hopper-v5"])
def test_a_run_leaves_its_config_metrics_events_and_checkpoint(
    ratpg: Command, env_id: str, backend: str, tmp_path: Path
) -> None:
    result = ratpg.train(env_id, tmp_path / "run", backend=backend)
    assert (result.code, result.err) == (0, "")
    last = result.out.splitlines()[-1]
    assert last.startswith("done: 256 steps")
    assert str(tmp_path / "run") in last
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"config.json", "metrics.csv", "checkpoint.pt"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    rows = metrics_but_times(tmp_path / "run")
    assert [int(row["timesteps"]) for row in rows] == [ROLLOUT, 2 * ROLLOUT]
    header = (tmp_path / "run" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert set(COLUMNS) <= set(header)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["env"], config["backend"], config["seed"]) == (env_id, backend, 0)


def test_every_hyperparameter_is_a_flag_under_its_own_name(ratpg: Command) -> None:
    result = ratpg("train", "--help")
    assert result.code == 0
    fields = [field.name for field in dataclasses.fields(RATConfig)]
    run = "env algo preset seed total_timesteps run_dir backend num_envs num_steps threads device".split()
    for name in fields + run:
        # A switch has its negation beside it.
        assert re.search(rf"--{name.replace('_', '-')}[ ,]", result.out), name


@pytest.mark.parametrize(("algo", "name"), [(algo, name) for algo, presets in PRESETS.items() for name in presets])
def test_every_preset_of_every_algorithm_is_had_by_the_command(algo: str, name: str) -> None:
    config = parse_train(["--env", "Ant-v4", "--algo", algo, "--preset", name])
    assert config == TrainConfig(**preset(algo, name, "Ant-v4"))


@pytest.mark.parametrize("flag", ["--total-timesteps", "--total_timesteps"])
def test_the_preset_is_that_of_so_many_steps(flag: str) -> None:
    config = parse_train(["--env", "Hopper-v4", flag, "10_000_000"])
    assert config == TrainConfig(
        **preset("rat", "default", "Hopper-v4", total_timesteps=10**7) | {"total_timesteps": 10**7}
    )
    assert (
        parse_train([f"{flag}=10000000", "--env", "Hopper-v4", "--weight-decay", "0.5"]).algorithm.weight_decay == 0.5
    )
    with pytest.raises(BadArguments, match="total-timesteps"):
        parse_train(["--env", "Hopper-v4", flag, "many"])


def test_flags_reach_the_run(ratpg: Command, tmp_path: Path) -> None:
    flags = "--damping 0.3 --step-size 0.01 --max-step-norm 0.7 --kaczmarz-decay 0.5 --epochs 1 --minibatches 4"
    more = "--kl-band 0.001 0.5 --ratio-bounds 0.5 2 --critic-epochs 1 --gamma 0.9 --seed 7 --action-bounds tanh"
    assert ratpg.train("Pendulum-v1", tmp_path / "run", *flags.split(), *more.split()).code == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    expected = {"damping": 0.3, "step_size": 0.01, "max_step_norm": 0.7, "kaczmarz_decay": 0.5, "epochs": 1}
    expected |= {"minibatches": 4, "kl_band": [0.001, 0.5], "ratio_bounds": [0.5, 2], "critic_epochs": 1}
    assert {name: config["algorithm"][name] for name in expected} == expected
    assert (config["gamma"], config["seed"], config["action_bounds"]) == (0.9, 7, "tanh")
    assert metrics_but_times(tmp_path / "run")[0]["learning_rate"] == "0.01"


def test_a_preset_fills_in_what_no_flag_says(ratpg: Command, tmp_path: Path) -> None:
    flags = ["--preset", "paper", "--damping", "0.3"]
    assert ratpg.train("CartPole-v1", tmp_path / "run", *flags).code == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["preset"], config["gamma"], config["num_envs"]) == ("paper", 0.999, 4)
    assert (config["algorithm"]["max_step_norm"], config["algorithm"]["damping"]) == (0.5, 0.3)


def test_the_run_folder_is_named_after_the_run_unless_given(
    ratpg: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = "--env CartPole-v1 --seed 3 --total-timesteps 128 --num-envs 4 --num-steps 32 --threads 1 --hidden 8"
    assert ratpg("train", *flags.split()).code == 0
    assert (tmp_path / "runs" / "CartPole-v1-rat-default-s3" / "checkpoint.pt").is_file()


def stop_in_the_first_rollout(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(ProgressDisplay, "show", lambda self, row: signal.raise_signal(number))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_stopped_run_says_how_to_resume_and_resumes(
    ratpg: Command, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_in_the_first_rollout(patch, number)
        stopped = ratpg.train("CartPole-v1", tmp_path / "run")
    assert stopped.code == 130
    assert f"ratpg resume {tmp_path / 'run'}" in stopped.out.splitlines()[-1]
    assert checkpoint.load(tmp_path / "run")["timesteps"] == ROLLOUT
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    resumed = ratpg("resume", tmp_path / "run")
    assert resumed.code == 0
    assert "exactly where it was" in resumed.out
    assert resumed.out.splitlines()[-1].startswith("done: 256 steps")
    assert ratpg.train("CartPole-v1", tmp_path / "whole").code == 0
    assert metrics_but_times(tmp_path / "run") == metrics_but_times(tmp_path / "whole")


def test_a_run_resumed_on_envpool_says_that_its_episodes_are_fresh(
    ratpg: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_in_the_first_rollout(patch, signal.SIGINT)
        ratpg.train("CartPole-v1", tmp_path / "run", backend="envpool")
    resumed = ratpg("resume", tmp_path / "run")
    assert resumed.code == 0
    assert "fresh episodes" in resumed.out
    assert len(metrics_but_times(tmp_path / "run")) == 2


def test_a_complete_run_says_so_and_can_be_made_longer(ratpg: Command, tmp_path: Path) -> None:
    ratpg.train("CartPole-v1", tmp_path / "run")
    again = ratpg("resume", tmp_path / "run")
    assert again.code == 0
    assert "complete at 256 steps" in again.out
    assert "--total-timesteps" in again.out
    longer = ratpg("resume", tmp_path / "run", "--total-timesteps", 384)
    assert longer.code == 0
    assert len(metrics_but_times(tmp_path / "run")) == 3


@pytest.mark.parametrize("backend", ["auto", "gymnasium"])
def test_eval_on_another_backend_keeps_the_runs_options(ratpg: Command, backend: str, tmp_path: Path) -> None:
    ratpg.train("CartPole-v1", tmp_path / "run", "--env-options", "max_episode_steps=3", backend="envpool")
    result = ratpg("eval", tmp_path / "run", "--episodes", 4, "--backend", backend)
    assert json.loads(result.out)["returns"] == [3.0] * 4


def test_of_opposite_flags_the_last_one_counts() -> None:
    for last in ("--shared", "--no-shared"):
        flags = ["--env", "Ant-v4", "--shared", "--no-shared", last]
        assert parse_train(flags) == parse_train(["--env", "Ant-v4", last])


def test_eval_prints_json_of_deterministic_episodes(ratpg: Command, tmp_path: Path) -> None:
    ratpg.train("CartPole-v1", tmp_path / "run")
    first, again, other = (ratpg("eval", tmp_path / "run", "--episodes", 5, "--seed", s) for s in (1, 1, 2))
    assert (first.code, first.err) == (0, "")
    result = json.loads(first.out)
    assert (result["env"], result["episodes"], len(result["returns"])) == ("CartPole-v1", 5, 5)
    assert result["mean"] == pytest.approx(np.mean(result["returns"]))
    assert result["std"] == pytest.approx(np.std(result["returns"]))
    assert all(value >= 1 for value in result["returns"])
    assert again.out == first.out
    assert other.out != first.out


def test_plot_draws_png_and_svg(ratpg: Command, tmp_path: Path) -> None:
    for seed in (0, 1):
        ratpg.train("CartPole-v1", tmp_path / f"run{seed}", "--seed", seed)
    alone = ratpg("plot", tmp_path / "run0")
    assert (alone.code, alone.err) == (0, "")
    together = ratpg("plot", tmp_path / "run0", tmp_path / "run1", "-o", tmp_path / "figure")
    assert together.code == 0
    expected = [tmp_path / "run0" / "learning-curve", tmp_path / "figure"]
    printed = (alone.out + together.out).split()
    assert printed == [str(path.with_suffix(suffix)) for path in expected for suffix in (".png", ".svg")]
    for path in expected:
        assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in path.with_suffix(".svg").read_text()


def test_help_and_no_command_at_all_show_the_commands(ratpg: Command) -> None:
    asked, nothing = ratpg("--help"), ratpg()
    assert (asked.code, nothing.code) == (0, 2)
    for name in ("train", "resume", "eval", "plot"):
        assert name in asked.out
        assert ratpg(name, "--help").code == 0


def test_the_version_is_told(ratpg: Command) -> None:
    result = ratpg("--version")
    assert (result.code, result.out.strip()) == (0, f"ratpg {__version__}")
