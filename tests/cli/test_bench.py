"""`ratpg bench` finds the repository's benchmarks and passes their options on."""

from pathlib import Path

import pytest

from ratpg import cli

from .command import Command


def test_a_benchmark_is_run_with_its_options(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "update_cost", "--help"]) == 0
    assert "--sweep" in capfd.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["no-such"], ["timing"]])
def test_without_a_known_name_those_there_are_are_listed(ratpg: Command, arguments: list[str]) -> None:
    result = ratpg("bench", *arguments)
    assert result.code == 2
    assert all(name in result.err for name in ("rollout", "throughput", "time_to_return", "update_cost"))
    assert "timing" not in result.err


def test_an_installed_package_says_where_they_are(
    ratpg: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "SCRIPTS", tmp_path)
    result = ratpg("bench", "rollout")
    assert (result.code, len(result.err.splitlines())) == (2, 1)
    assert "repository" in result.err
