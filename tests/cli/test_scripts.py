"""`ratpg bench` and `ratpg reproduce` find the repository's scripts and pass their options on."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ratpg.cli import main, script

from .command import PATIENCE, Command, wait_for

BENCHMARKS = {"rollout", "throughput", "time_to_return", "update_cost"}
EXPERIMENTS = {"ablation", "gaussian", "identity", "kaczmarz", "mujoco", "shared_critic"}


@pytest.mark.parametrize(
    ("arguments", "option"), [(["bench", "update_cost"], "--sweep"), (["reproduce", "gaussian"], "--redraw")]
)
def test_a_script_is_run_with_its_options(
    arguments: list[str],
    option: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*arguments, "--help"]) == 0
    assert option in capfd.readouterr().out


@pytest.mark.parametrize(("command", "names"), [("bench", BENCHMARKS), ("reproduce", EXPERIMENTS)])
@pytest.mark.parametrize("arguments", [[], ["no-such"], ["timing"], ["runner"]])
def test_without_a_known_name_those_there_are_are_listed(
    ratpg: Command, command: str, names: set[str], arguments: list[str]
) -> None:
    result = ratpg(command, *arguments)
    assert (result.code, len(result.err.splitlines())) == (2, 1)
    assert all(name in result.err for name in names)
    assert "timing" not in result.err and "runner" not in result.err


@pytest.mark.parametrize(("command", "names"), [("bench", BENCHMARKS), ("reproduce", EXPERIMENTS)])
def test_help_lists_them_too(ratpg: Command, command: str, names: set[str]) -> None:
    result = ratpg(command, "--help")
    assert (result.code, result.err) == (0, "")
    assert all(name in result.out for name in names)


def test_an_error_in_a_script_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "toy.py").write_text('if __name__ == "__main__":\n    open("no-such-file")\n')
    monkeypatch.setattr(script, "REPOSITORY", tmp_path)
    assert main(["reproduce", "toy"]) == 2
    assert capfd.readouterr().err == "ratpg: [Errno 2] No such file or directory: 'no-such-file'\n"


def test_scripts_run_from_the_repository_wherever_they_are_called(
    ratpg: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "experiments").mkdir()
    source = 'from pathlib import Path\nif __name__ == "__main__":\n    Path("here").touch()\n    raise SystemExit(7)\n'
    (tmp_path / "experiments" / "toy.py").write_text(source)
    monkeypatch.setattr(script, "REPOSITORY", tmp_path)
    assert ratpg("reproduce", "toy").code == 7
    assert (tmp_path / "here").exists()


@pytest.mark.parametrize("command", ["bench", "reproduce"])
def test_an_installed_package_says_where_they_are(
    ratpg: Command, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "REPOSITORY", tmp_path)
    result = ratpg(command, "rollout")
    assert (result.code, len(result.err.splitlines())) == (2, 1)
    assert "repository" in result.err


@pytest.mark.parametrize(
    "interrupt",
    [
        lambda process: os.killpg(process.pid, signal.SIGINT),  # as a terminal does: to all that it has started
        lambda process: process.terminate(),
    ],
    ids=["Ctrl-C", "SIGTERM"],
)
def test_an_interrupted_script_puts_its_things_away_and_says_so_in_one_line(
    interrupt: Callable[["subprocess.Popen[str]"], None], tmp_path: Path
) -> None:
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "toy.py").write_text(
        "import time\nfrom pathlib import Path\n"
        'if __name__ == "__main__":\n'
        "    try:\n"
        '        Path("started").touch()\n'
        "        time.sleep(1000)\n"
        "    finally:\n"
        "        time.sleep(0.5)\n"
        '        Path("away").touch()\n'
    )
    code = (
        "import sys; from pathlib import Path; from ratpg.cli import main, script; "
        f"script.REPOSITORY = Path({str(tmp_path)!r}); sys.exit(main(['reproduce', 'toy']))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        wait_for(tmp_path / "started")
        interrupt(process)
        _, err = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert process.returncode == 130
    assert (tmp_path / "away").exists()
    assert len(err.splitlines()) == 1 and "interrupted" in err
