"""`ratpg bench` and `ratpg reproduce` find the repository's scripts and pass their options on."""

from pathlib import Path

import pytest

from ratpg import cli

from .command import Command

BENCHMARKS = {"rollout", "throughput", "time_to_return", "update_cost"}
EXPERIMENTS = {"ablation", "gaussian", "identity", "kaczmarz", "kaczmarz_decay", "mujoco"}


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
    assert cli.main([*arguments, "--help"]) == 0
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


def test_scripts_run_from_the_repository_wherever_they_are_called(
    ratpg: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "experiments").mkdir()
    script = 'from pathlib import Path\nif __name__ == "__main__":\n    Path("here").touch()\n    raise SystemExit(7)\n'
    (tmp_path / "experiments" / "toy.py").write_text(script)
    monkeypatch.setattr(cli, "REPOSITORY", tmp_path)
    assert ratpg("reproduce", "toy").code == 7
    assert (tmp_path / "here").exists()


@pytest.mark.parametrize("command", ["bench", "reproduce"])
def test_an_installed_package_says_where_they_are(
    ratpg: Command, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "REPOSITORY", tmp_path)
    result = ratpg(command, "rollout")
    assert (result.code, len(result.err.splitlines())) == (2, 1)
    assert "repository" in result.err
