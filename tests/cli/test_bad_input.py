"""Bad input: exit code 2, one clear line, nothing lost and nothing half made."""

import hashlib
from pathlib import Path

import pytest
from gymnasium.envs.classic_control import CartPoleEnv

from cli.command import PATIENCE, Command, Result, assert_refused, start
from ratpg.rl.envs import envpool_options, make_vec
from ratpg.training import checkpoint
from short_runs import FLAGS, ROLLOUT, metrics_but_times
from toy_envs import FAULT_STEP

TRAIN = {
    "unknown environment": (["--env", "Hoper-v4"], ["Hoper-v4", "Hopper-v4"]),
    "unknown environment on gymnasium": (["--env", "CartPol-v1", "--backend", "gymnasium"], ["CartPole-v1"]),
    "unknown environment on envpool": (["--env", "CartPol-v1", "--backend", "envpool"], ["CartPole-v1"]),
    "unknown environment module": (["--env", "no_such_module:Thing-v0"], ["no_such_module"]),
    "environment of a package that is missing": (["--env", "LunarLander-v3", "--backend", "gymnasium"], ["Box2D"]),
    "environment that was retired": (["--env", "Hopper-v3", "--backend", "gymnasium"], ["Hopper-v3|mujoco"]),
    "observation space": (["--env", "ToySequenceObservation-v0"], ["observations", "fixed size", "Dict"]),
    "action space": (["--env", "ToyTupleAction-v0"], ["actions", "Discrete", "Tuple"]),
    "an option without a value": (
        ["--env", "CartPole-v1", "--env-options", "num_levels"],
        ["name=value", "num_levels"],
    ),
    "an option that EnvPool does not know": (["--env-options", "num_lvels=10"], ["CartPole-v1", "num_lvels"]),
    "an option that Gymnasium does not know": (
        ["--env", "CartPole-v1", "--backend", "gymnasium", "--env-options", "num_lvels=10"],
        ["CartPole-v1", "num_lvels"],
    ),
    "a module of a package that is missing": (["--env", "foo.bar:Env-v0"], ["no module 'foo.bar'"]),
    "no name of a module": (["--env", ".x:Env-v0"], ["no module '.x'"]),
    "an option's value that the environment does not know": (
        ["--env", "FrozenLake-v1", "--backend", "gymnasium", "--env-options", "map_name=9x9"],
        ["FrozenLake-v1", "map_name=9x9"],
    ),
    "an option that is the trainer's own": (["--env-options", "batch_size=4"], ["CartPole-v1", "batch_size"]),
    "an option that is a flag": (["--env-options", "seed=4"], ["CartPole-v1", "seed", "setting of the run"]),
    "an option that is nested too deeply": (["--env-options", "a=" + "[" * 100_000], ["'a'", "too deep"]),
    "an option of too many digits": (["--env-options", "a=" + "9" * 5000], ["'a'", "too long"]),
    "an option that is nested": (
        ["--backend", "gymnasium", "--env-options", 'a={"b": [{"c": 1}]}'],
        ["CartPole-v1", "keyword argument 'a'"],
    ),
    "an option that is given twice": (
        ["--env-options", "max_episode_steps=9", "max_episode_steps=8"],
        ["max_episode_steps", "twice"],
    ),
    "an option of another kind": (["--env-options", "max_episode_steps=a"], ["max_episode_steps must be int", "500"]),
    "frames that are none": (
        ["--env", "Pong-v5", "--env-options", "stack_num=0"],  # EnvPool would end the process
        ["Pong-v5", "stack_num must be at least 1"],
    ),
    "no-ops that are none": (
        ["--env", "Pong-v5", "--env-options", "noop_max=0"],  # EnvPool would crash
        ["Pong-v5", "noop_max must be at least 1$"],
    ),
    "more frames than there is an end to": (
        ["--env", "Pong-v5", "--env-options", "stack_num=100000"],
        ["Pong-v5", "stack_num must be at most 64$"],
    ),
    "a path of EnvPool's own": (
        ["--env", "Pong-v5", "--env-options", "base_path=/nowhere"],  # EnvPool would end the process
        ["Pong-v5", "base_path is where EnvPool has its own files$"],
    ),
    "a number of more than 32 bits": (
        ["--env-options", "max_episode_steps=99999999999999999999"],
        ["max_episode_steps must be a number of 32 bits"],
    ),
    "an option that EnvPool is tried with first": (
        ["--env", "Pong-v5", "--env-options", "mode=77"],
        ["Pong-v5", "mode=77", "Invalid game mode"],
    ),
    "another task than the id's": (
        ["--env", "Pong-v5", "--env-options", "task=breakout"],
        ["Pong-v5", "task", "another id"],
    ),
    "levels that are fewer than none": (
        ["--env", "CoinrunEasy-v0", "--env-options", "num_levels=-1"],
        ["CoinrunEasy-v0", "num_levels must be at least 0|Qt"],
    ),
    "images for a network without images": (["--network", "impala"], ["impala", "images", "Box"]),
    "an LSTM of no width": (["--lstm", "0"], ["lstm", "at least 1"]),
    "more mini-batches of sequences than environments": (
        ["--lstm", "8", "--critic-minibatches", "16"],
        ["critic_minibatches", "num_envs 4", "16"],
    ),
    "an LSTM too large for K-FAC": (
        ["--algo", "acktr", "--lstm", "64"],
        ["acktr", "weight_ih|weight_hh", "at most 4096"],
    ),
    "layers before an LSTM too large for K-FAC": (
        ["--algo", "acktr", "--hidden", "128", "128", "--lstm", "8"],
        ["acktr", "Linear", "at most 4096"],
    ),
    "curvature rows with an LSTM": (
        ["--lstm", "8", "--critic-minibatches", "4", "--curvature-rows", "64"],
        ["curvature_rows", "LSTM"],
    ),
    "residuals without shared layers": (["--value-advantage", "residual"], ["residual", "add --shared"]),
    "a Gauss-Newton critic with shared layers": (
        ["--shared", "--critic", "gauss-newton"],
        ["gauss-newton", "needs separate networks"],
    ),
    "unknown backend": (["--backend", "gazebo"], ["backend", "gazebo"]),
    "negative damping": (["--damping", "-1"], ["damping", "at least 0", "-1"]),
    "damping that is NaN": (["--damping", "nan"], ["damping", "finite", "nan"]),
    "infinite step size": (["--step-size", "inf"], ["step_size|step-size", "finite"]),
    "step size zero": (["--step-size", "0"], ["step_size|step-size", "greater than 0"]),
    "norm clip that is negative": (["--max-step-norm", "-0.5"], ["max_step_norm|max-step-norm", "greater than 0"]),
    "decay above one": (["--kaczmarz-decay", "1.5"], ["kaczmarz_decay|kaczmarz-decay", "at most 1"]),
    "KL band upside down": (["--kl-band", "0.02", "0.01"], ["kl_band|kl-band"]),
    "a range that is half NaN": (["--ratio-bounds", "nan", "2"], ["ratio_bounds|ratio-bounds", "finite"]),
    "no epochs": (["--epochs", "0"], ["epochs", "at least 1"]),
    "gamma above one": (["--gamma", "1.01"], ["gamma", "at most 1"]),
    "gamma that is NaN": (["--gamma", "nan"], ["gamma", "finite"]),
    "no environments": (["--num-envs", "0"], ["num_envs|num-envs", "at least 1"]),
    "more environments than any machine has": (["--num-envs", "9" * 20], ["num_envs", "at most"]),
    "more steps than any machine holds": (["--num-steps", "9" * 20], ["num_steps", "at most"]),
    "a width beyond all memories": (["--hidden", "1" + "0" * 20], ["hidden", "at most"]),
    "a width that is no integer": (["--hidden", "1e20"], ["hidden", "1e20"]),
    "an LSTM wider than any memory": (["--lstm", "9" * 20], ["lstm", "at most"]),
    "a number that no tensor holds": (["--max-step-norm", "1e300"], ["max_step_norm", "at most 3.4e\\+38"]),
    "a range beyond what tensors hold": (["--ratio-bounds", "0.1", "1e300"], ["ratio_bounds", "at most 3.4e\\+38"]),
    "negative timesteps": (["--total-timesteps", "-5"], ["total_timesteps|total-timesteps", "at least 1"]),
    "timesteps beyond all floats": (["--total-timesteps", "9" * 400], ["total_timesteps|total-timesteps", "finite"]),
    "negative seed": (["--seed", "-1"], ["seed", "at least 0"]),
    "a seed beyond all generators": (["--seed", "9" * 30], ["seed"]),
    "a number that is none": (["--damping", "abc"], ["damping", "abc"]),
    "an integer that is none": (["--num-envs", "2.5"], ["num-envs", "2.5"]),
    "unknown flag": (["--dampning", "0.1"], ["--dampning"]),
    "flag without its value": (["--damping"], ["damping"]),
    "algorithm without its name": (["--algo"], ["algo"]),
    "a stray word": (["surplus"], ["surplus"]),
    "unknown algorithm": (["--algo", "rot"], ["algo", "'rot'", "rat"]),
    "unknown preset": (["--preset", "papers"], ["preset", "'papers'", "paper", "default"]),
    "unknown activation": (["--activation", "rleu"], ["activation", "rleu", "relu"]),
    "no width": (["--hidden", "0"], ["hidden"]),
    "mini-batches that do not divide": (["--minibatches", "3"], ["minibatches 3", "does not divide", "128"]),
    "critic mini-batches that do not divide": (["--critic-minibatches", "5"], ["critic_minibatches 5", "divide"]),
    "unknown device": (["--device", "abacus"], ["device", "abacus"]),
    "too many threads": (["--threads", "9" * 11], ["threads", "at most"]),
    "an option that the simulator cannot divide by": (
        ["--env", "Hopper-v5", "--backend", "gymnasium", "--env-options", "frame_skip=0"],
        ["Hopper-v5", "frame_skip=0", "division"],
    ),
}


@pytest.mark.parametrize("flags, needles", TRAIN.values(), ids=TRAIN.keys())
def test_train_refuses_in_one_line_and_makes_no_folder(
    ratpg: Command, flags: list[str], needles: list[str], tmp_path: Path
) -> None:
    env = [] if "--env" in flags else ["--env", "CartPole-v1"]
    short = ["--run-dir", str(tmp_path / "run"), "--total-timesteps", "128"]
    assert_refused(ratpg("train", *env, *short, *FLAGS, *flags), *needles)
    assert list(tmp_path.iterdir()) == []


def test_an_option_that_is_not_known_is_tried_in_a_process_of_its_own(
    ratpg: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What kills the trial does not kill the command; and options that are known cost no trial."""
    flags = ["--env-options", "difficulty=0", "--network", "nature-cnn"]
    monkeypatch.setattr(envpool_options, "TRIAL", "import os; os.abort()")
    assert_refused(ratpg.train("Pong-v5", tmp_path, *flags, backend="envpool"), "ends the process with SIGABRT$")
    monkeypatch.setattr(envpool_options, "TRIAL", "import sys; sys.exit(1)")
    assert_refused(ratpg.train("Pong-v5", tmp_path, *flags, backend="envpool"), "ends the process with code 1$")
    monkeypatch.setattr(envpool_options, "TRIAL", "while True: pass")
    monkeypatch.setattr(envpool_options, "PATIENCE", 0.5)
    assert_refused(ratpg.train("Pong-v5", tmp_path, *flags, backend="envpool"), "does not come back")
    options = {"stack_num": 2, "frame_skip": 3, "episodic_life": True, "repeat_action_probability": 0.25}
    make_vec("Pong-v5", 1, seed=0, backend="envpool", options=options).close()


MODULES = {
    "that cannot be imported": ("import not_there_at_all", ["cannot be imported", "not_there_at_all"]),
    "that is no Python": ("def", ["cannot be imported", "invalid syntax"]),
    "that ends the program": ("import sys; sys.exit('no licence found')", ["no licence found"]),
    "that ends it as if all were well": ("import sys; sys.exit(0)", ["ended the program"]),
}


@pytest.mark.parametrize("code, needles", MODULES.values(), ids=MODULES.keys())
def test_an_environments_module(
    ratpg: Command, code: str, needles: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "toy_broken.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    assert_refused(ratpg.train("toy_broken:Foo-v0", tmp_path / "run"), *needles)
    assert not (tmp_path / "run").exists()


def test_mujoco_that_cannot_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It asks for a library to draw with as it is imported."""
    monkeypatch.setenv("MUJOCO_GL", "abacus")
    where = "--backend", "gymnasium", "--run-dir", tmp_path / "run", "--total-timesteps", 128, *FLAGS
    process = start("train", "--env", "Hopper-v4", *where)
    out, err = process.communicate(timeout=PATIENCE)
    assert_refused(Result(process.returncode, out, err), "Hopper-v4", "unset MUJOCO_GL, which is 'abacus'")
    process = start("train", "--env", "CartPole-v1", *where)
    assert "done: " in process.communicate(timeout=PATIENCE)[0]


def test_a_module_may_have_any_name(ratpg: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "toy-envs-of-mine.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    assert ratpg.train("toy-envs-of-mine:CartPole-v1", tmp_path / "run").code == 0


def test_an_error_of_the_environments_own_says_where_it_comes_from(
    ratpg: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CartPoleEnv, "step", lambda *_: [].index(3))
    assert_refused(ratpg.train("CartPole-v1", tmp_path / "run"), r"3 is not in list \(.*test_bad_input\.py, line \d+\)")


def test_more_memory_than_there_is(ratpg: Command, tmp_path: Path) -> None:
    result = ratpg.train("CartPole-v1", tmp_path / "run", "--num-steps", 2**50)
    assert_refused(result, "allocate|memory")


def test_train_without_an_environment_asks_for_one(ratpg: Command) -> None:
    assert_refused(ratpg("train"), "--env")


def test_an_unknown_command_is_refused_with_those_there_are(ratpg: Command) -> None:
    assert_refused(ratpg("trian"), "'trian'", "train, resume, eval, plot")


def contents(directory: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in directory.iterdir()}


def test_a_folder_that_holds_a_run_is_refused_and_left_as_it_was(ratpg: Command, tmp_path: Path) -> None:
    ratpg.train("CartPole-v1", tmp_path / "run")
    before = contents(tmp_path / "run")
    again = ratpg.train("CartPole-v1", tmp_path / "run")
    assert_refused(again, "already holds a run", f"ratpg resume {tmp_path / 'run'}", "--run-dir")
    assert contents(tmp_path / "run") == before


@pytest.mark.parametrize("left", ["config.json", "metrics.csv", "checkpoint.pt"])
def test_any_trace_of_a_run_counts(ratpg: Command, left: str, tmp_path: Path) -> None:
    (tmp_path / left).write_text("precious")
    assert_refused(ratpg.train("CartPole-v1", tmp_path), "already holds a run")
    assert (tmp_path / left).read_text() == "precious"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_run_folder_that_is_a_file_is_refused(ratpg: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    assert_refused(ratpg.train("CartPole-v1", tmp_path / "file"), str(tmp_path / "file"))
    assert_refused(ratpg.train("CartPole-v1", tmp_path / "file" / "run"), str(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.parametrize("command", ["resume", "eval", "plot"])
def test_a_missing_run_folder_is_refused_by_name(ratpg: Command, command: str, tmp_path: Path) -> None:
    assert_refused(ratpg(command, tmp_path / "nowhere"), str(tmp_path / "nowhere"), "folder of a run")
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("command", ["resume", "eval", "plot"])
def test_a_command_without_its_run_folder_asks_for_it(ratpg: Command, command: str) -> None:
    assert_refused(ratpg(command), "run|RUN")


@pytest.mark.parametrize("command", ["resume", "eval"])
def test_an_unreadable_checkpoint_is_refused_with_advice(ratpg: Command, command: str, tmp_path: Path) -> None:
    ratpg.train("CartPole-v1", tmp_path / "run", "--checkpoint-interval", 0)
    path = tmp_path / "run" / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:1000])
    before = contents(tmp_path / "run")
    assert_refused(ratpg(command, tmp_path / "run"), str(path), "cannot be read", r"mv .*checkpoint\.previous\.pt")
    assert contents(tmp_path / "run") == before
    (tmp_path / "run" / "checkpoint.previous.pt").replace(path)  # as advised
    assert ratpg(command, tmp_path / "run").code == 0


def test_eval_refuses_no_episodes(ratpg: Command, tmp_path: Path) -> None:
    ratpg.train("CartPole-v1", tmp_path / "run")
    assert_refused(ratpg("eval", tmp_path / "run", "--episodes", 0), "episodes", "at least 1")


def test_eval_refuses_rewards_that_are_not_finite(ratpg: Command, tmp_path: Path) -> None:
    ratpg.train("CartPole-v1", tmp_path / "run")
    with pytest.MonkeyPatch.context() as patch:
        step = CartPoleEnv.step

        def unpaid(*arguments):
            observation, _, *others = step(*arguments)
            return observation, float("nan"), *others

        patch.setattr(CartPoleEnv, "step", unpaid)
        assert_refused(ratpg("eval", tmp_path / "run"), "CartPole-v1", "not finite")


@pytest.mark.parametrize("flags", [["--total-timesteps", -5], ["--total-timesteps", "nan"], ["--sede", 1]])
def test_resume_refuses_what_train_refuses(ratpg: Command, flags: list[object], tmp_path: Path) -> None:
    ratpg.train("CartPole-v1", tmp_path / "run")
    before = contents(tmp_path / "run")
    assert_refused(ratpg("resume", tmp_path / "run", *flags), "total.timesteps|--sede")
    assert contents(tmp_path / "run") == before


def test_plot_refuses_a_run_in_which_no_episode_has_ended(ratpg: Command, tmp_path: Path) -> None:
    ratpg.train("Pendulum-v1", tmp_path / "run", steps=128)
    assert_refused(ratpg("plot", tmp_path / "run"), "no episode", str(tmp_path / "run"))


def rewritten(path: Path, change: str) -> None:
    lines = [line.split(",") for line in path.read_text().splitlines()]
    column = lines[0].index(change)
    path.write_text("\n".join(",".join(line[:column] + line[column + 1 :]) for line in lines) + "\n")


def test_plot_refuses_metrics_and_configs_of_another_shape(ratpg: Command, tmp_path: Path) -> None:
    run, loop = tmp_path / "run", tmp_path / "loop"
    for column in ("timesteps", "episode_return_mean"):
        ratpg.train("CartPole-v1", run / column)
        rewritten(run / column / "metrics.csv", column)
        assert_refused(ratpg("plot", run / column), rf"metrics\.csv is damaged \(it has no column {column}\)")
    assert ratpg.train("CartPole-v1", run).code == 0
    for config in ('{"env": ["CartPole-v1"], "algo": "rat", "preset": "default"}', "[" * 100_000, "[]", "null"):
        (run / "config.json").write_text(config)
        assert_refused(ratpg("plot", run), r"config\.json is not that of a run")
    (run / "config.json").unlink()
    assert_refused(ratpg("plot", run), r"no config\.json in .*run: is it the folder of a run\?")
    loop.symlink_to(loop)
    for command in ("plot", "resume", "eval", "export"):
        assert_refused(ratpg(command, loop), "folder of a run|no metrics|no checkpoint")
    assert_refused(ratpg.train("CartPole-v1", loop), "loop")


@pytest.mark.parametrize("what", ["reward", "observation"])
def test_experience_that_is_not_finite_stops_the_run_and_loses_nothing(
    ratpg: Command, what: str, tmp_path: Path
) -> None:
    flags = ["--checkpoint-interval", 1e6, "--no-normalize-rewards"]
    result = ratpg.train(f"ToyNaN{what.capitalize()}-v0", tmp_path / "run", *flags, steps=10 * ROLLOUT)
    assert_refused(result, what, r"environment 1\b", rf"step {FAULT_STEP % 32}\b")
    assert len(metrics_but_times(tmp_path / "run")) == FAULT_STEP // 32
    assert checkpoint.load(tmp_path / "run")["timesteps"] == FAULT_STEP // 32 * ROLLOUT
    assert not list((tmp_path / "run").glob("*.tmp"))


@pytest.mark.parametrize("what", ["reward", "observation"])
def test_a_run_that_fails_in_its_first_rollout_leaves_nothing_half_made(
    ratpg: Command, what: str, tmp_path: Path
) -> None:
    result = ratpg.train(f"ToyNaN{what.capitalize()}AtOnce-v0", tmp_path / "run")
    assert_refused(result, what, r"environment 1\b", r"step 3\b")
    # Either there is no folder, or it can be resumed (and fails again for the same reason).
    if (tmp_path / "run").exists():
        assert_refused(ratpg("resume", tmp_path / "run"), what, r"environment 1\b")


def test_a_full_disk_stops_the_run_in_one_line(ratpg: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("torch.save", full)
        assert_refused(ratpg.train("CartPole-v1", tmp_path / "run"), "No space left on device")
    assert not list((tmp_path / "run").glob("*.tmp"))
