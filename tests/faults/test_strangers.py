"""A run folder from somebody else: it runs no code unasked, and what it holds leads nowhere."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cli.command import Command, assert_refused
from ratpg.training import checkpoint
from ratpg.training.saved_run import load_policy
from ratpg.training.trainer import Trainer
from short_runs import FLAGS, ROLLOUT

MODULE = """
import pathlib
pathlib.Path("sprung").touch()
import gymnasium
gymnasium.register("Trap-v0", entry_point="gymnasium.envs.classic_control:CartPoleEnv", max_episode_steps=9)
"""


def test_a_module_that_the_checkpoint_names_is_imported_when_asked_alone(tmp_path: Path) -> None:
    """With ``python -m`` the working directory is where modules are looked for."""
    (tmp_path / "trap.py").write_text(MODULE)

    def ratpg(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "ratpg.cli", *map(str, arguments)]
        (tmp_path / "sprung").unlink(missing_ok=True)
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    flags = ["--run-dir", "run", "--backend", "gymnasium", "--total-timesteps", ROLLOUT, *FLAGS]
    assert ratpg("train", "--env", "trap:Trap-v0", *flags).returncode == 0  # the user's own word
    assert (tmp_path / "sprung").exists()
    for command in (["eval", "run"], ["resume", "run", "--total-timesteps", 2 * ROLLOUT]):
        refused = ratpg(*command)
        assert refused.returncode == 2 and not (tmp_path / "sprung").exists()
        assert refused.stderr == (
            "ratpg: the run in run is of trap:Trap-v0, for which the module 'trap' is imported: add --trust-env if you "
            "know who made this folder\n"
        )
    assert ratpg("eval", "run", "--trust-env").returncode == 0
    assert (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    "env, options, words",
    [
        ("json:CartPole-v1", [], "module 'json' is imported"),
        ("GymV26Environment-v0", ["env_id=trap:Trap-v0"], "imports what its options name"),
        ("Hopper-v5", ["xml_file=./evil.xml"], "option xml_file=./evil.xml, which may name a file"),
    ],
)
def test_whatever_names_code_or_files_is_asked_about(
    ratpg: Command, env: str, options: list[str], words: str, tmp_path: Path
) -> None:
    assert ratpg.train("CartPole-v1", tmp_path / "run").code == 0
    state = checkpoint.load(tmp_path / "run")
    written = '"env": "CartPole-v1"', '"env_options": []'
    config = state["config"].replace(written[0], f'"env": "{env}"')
    config = config.replace(written[1], f'"env_options": {options!r}'.replace("'", '"'))
    checkpoint.save(tmp_path / "run", state | {"config": config})
    for command in ("eval", "video", "resume"):
        assert_refused(ratpg(command, tmp_path / "run"), words, "--trust-env")
    load_policy(tmp_path / "run")  # which makes no environment


WRITTEN = ["checkpoint.previous.pt", "config.json", "metrics.csv", "learning-curve.png", "learning-curve.svg"]
WRITTEN += ["policy.onnx", "episode.mp4"]
TEMPORARY = ["checkpoint.pt.tmp", "checkpoint.previous.pt.tmp", "config.tmp", "metrics.tmp"]


def test_planted_links_lead_nowhere(ratpg: Command, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert ratpg.train("CartPole-v1", run).code == 0
    contents = {}
    for name in WRITTEN + TEMPORARY:
        precious = tmp_path / f"precious-{name}"
        precious.write_bytes((run / name).read_bytes() if name == "metrics.csv" else b"mine")
        contents[precious] = precious.read_bytes()
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(precious)
    assert ratpg("resume", run, "--total-timesteps", 3 * ROLLOUT).code == 0
    for command in ("plot", "export", "video"):
        assert ratpg(command, run).code == 0
    assert {precious: precious.read_bytes() for precious in contents} == contents
    assert not [name for name in WRITTEN if (run / name).is_symlink()]


def test_events_are_written_to_a_file_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ratpg.training.events import EventWriter

    monkeypatch.setattr("time.time", lambda: 1.0)
    EventWriter(tmp_path, 1).close()
    (name,) = os.listdir(tmp_path)
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to(tmp_path / "precious")
    with pytest.raises(FileExistsError):
        EventWriter(tmp_path, 1)
    assert not (tmp_path / "precious").exists()


def test_what_one_trusts_can_be_resumed(ratpg: Command, tmp_path: Path) -> None:
    assert ratpg.train("json:CartPole-v1", tmp_path / "run", steps=ROLLOUT).code == 0
    assert ratpg("resume", tmp_path / "run", "--trust-env", "--total-timesteps", 2 * ROLLOUT).code == 0
    trainer, _ = Trainer.resume(tmp_path / "run", trust_env=True)
    assert trainer.timesteps == 2 * ROLLOUT
    again = ratpg.train("json:CartPole-v1", tmp_path / "run")
    assert_refused(again, f"`ratpg resume {tmp_path / 'run'} --trust-env`")
