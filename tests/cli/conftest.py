"""Fixtures of the command's tests."""

import pytest

import toy_envs  # noqa: F401  registers the environments that the command is pointed at
from cli.command import Command


@pytest.fixture
def ratpg(capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(capsys)
