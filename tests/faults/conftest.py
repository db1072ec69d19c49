"""Fixtures of the faults suite."""

import pytest

import faults.hostile_envs  # noqa: F401  registers the environments that misbehave
from cli.command import Command


@pytest.fixture
def ratpg(capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(capsys)
