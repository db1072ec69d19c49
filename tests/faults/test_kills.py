"""Real runs that are killed at any moment, and a disk that is really full."""

import os
import random
import resource
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.command import Command, assert_refused, start, wait_for_rows
from cli.test_signals import UNANNEALED, train_endlessly
from ratpg.training import checkpoint
from ratpg.training.trainer import Trainer
from short_runs import ROLLOUT, metrics_but_times, short_config, train

SMALL = 1_500_000
"""Bytes of a small disk."""


class Killed(BaseException):
    """Stands for a kill: nothing below may catch it and tidy up."""


def test_what_was_asked_of_a_resumed_run_outlives_a_kill_in_its_first_step(tmp_path: Path) -> None:
    train(short_config("CartPole-v1", tmp_path, rollouts=1))

    def kill(row: dict[str, float]) -> None:
        raise Killed

    with pytest.raises(Killed):
        Trainer.resume(tmp_path, total_timesteps=3 * ROLLOUT)[0].run(on_row=kill)
    resumed, exact = Trainer.resume(tmp_path)
    assert (resumed.config.total_timesteps, resumed.timesteps, exact) == (3 * ROLLOUT, ROLLOUT, True)
    assert resumed.run()
    train(short_config("CartPole-v1", tmp_path / "whole", rollouts=3))
    assert metrics_but_times(tmp_path)[1]["kl"] == metrics_but_times(tmp_path / "whole")[1]["kl"]


def kill_at_random(ratpg: Command, env_id: str, kills: int, seed: int, tmp_path: Path) -> None:
    """Kills a run and its resumptions at random times, within writes too; it ends as if nothing had been."""
    run, moments = tmp_path / "run", random.Random(seed)
    for attempt in range(kills):
        command = train_endlessly(env_id, run, "--checkpoint-interval", 0) if not attempt else ("resume", run)
        rows = len(metrics_but_times(run)) if attempt else 0
        process = start(*command)
        try:
            wait_for_rows(process, run, rows + 1)
            time.sleep(moments.uniform(0, 0.5))
        finally:
            process.kill()
            process.communicate()
        assert process.returncode == -signal.SIGKILL
    total = checkpoint.load(run)["timesteps"] + 2 * ROLLOUT
    assert ratpg("resume", run, "--total-timesteps", total).code == 0
    assert ratpg.train(env_id, tmp_path / "whole", UNANNEALED, steps=total).code == 0
    assert metrics_but_times(run) == metrics_but_times(tmp_path / "whole")
    ours, theirs = (checkpoint.load(folder)["policy"] for folder in (run, tmp_path / "whole"))
    assert all(bool((ours[name] == theirs[name]).all()) for name in theirs)
    assert not list(run.glob("*.tmp"))


@pytest.mark.slow
@pytest.mark.parametrize("env_id, seed", [("CartPole-v1", 0), ("Pendulum-v1", 1), ("Hopper-v4", 2)])
def test_a_run_killed_at_random_times_ends_as_one_that_was_not(
    ratpg: Command, env_id: str, seed: int, tmp_path: Path
) -> None:
    kill_at_random(ratpg, env_id, 8, seed, tmp_path)


@pytest.mark.slow
def test_a_resumption_that_was_killed_goes_on_to_what_was_asked(ratpg: Command, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert ratpg.train("CartPole-v1", run, "--checkpoint-interval", 1e6).code == 0
    process = start("resume", run, "--total-timesteps", 30_000)
    try:
        wait_for_rows(process, run, 3)
    finally:
        process.kill()
        process.communicate()
    assert checkpoint.load(run)["timesteps"] == 256
    assert ratpg("resume", run).code == 0
    assert checkpoint.load(run)["timesteps"] >= 30_000


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of a few checkpoints."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SMALL}", "tmpfs", str(disk)]
    try:
        mounted = subprocess.run(command, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("mounting a small disk is not permitted here")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_full_disk_stops_the_run_in_one_line_and_nothing_is_lost(ratpg: Command, small_disk: Path) -> None:
    """Whatever the write that it is full at."""
    run, ballast = small_disk / "run", small_disk / "ballast"
    flags = ["--checkpoint-interval", 0]
    total = 40 * ROLLOUT
    assert ratpg.train("CartPole-v1", run, *flags, steps=ROLLOUT).code == 0
    for left in (0, 4096, 12288, 20480, 28672):
        free = os.statvfs(small_disk)
        with ballast.open("wb", buffering=0) as file:
            file.write(bytes(free.f_bavail * free.f_frsize - left))
        result = ratpg("resume", run, "--total-timesteps", total)
        assert_refused(result, "No space left on device|could not be written")
        ballast.unlink()
        assert not [path for path in run.glob("*.tmp") if path.stat().st_size > 0]
    result = ratpg("resume", run, "--total-timesteps", total)
    assert result.code == 0
    assert ratpg.train("CartPole-v1", run.parents[1] / "whole", steps=total).code == 0
    rows = metrics_but_times(run)
    assert [row for row in metrics_but_times(run.parents[1] / "whole") if row in rows] == rows
    assert len(rows) == 40 or f"lacks {40 - len(rows)} of" in result.err


def test_a_limit_on_files_is_as_a_full_disk(ratpg: Command, tmp_path: Path) -> None:
    assert ratpg.train("CartPole-v1", tmp_path, steps=2 * ROLLOUT).code == 0
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))  # bytes a file may have
        assert_refused(ratpg("resume", tmp_path, "--total-timesteps", 4 * ROLLOUT), "File too large|be written")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert ratpg("resume", tmp_path, "--total-timesteps", 4 * ROLLOUT).err == ""
    assert len(metrics_but_times(tmp_path)) == 4
