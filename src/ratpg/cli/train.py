"""``ratpg train`` and ``ratpg resume``."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import tyro
from rich.console import Console

from ratpg.cli import INTERRUPTED
from ratpg.cli.arguments import parse, parse_train
from ratpg.rl.envs import Backend
from ratpg.training.heap import keep_freed_memory
from ratpg.training.logging import ProgressDisplay, say
from ratpg.training.saved_run import resume_command
from ratpg.training.trainer import Trainer


@dataclass(frozen=True)
class ResumeArguments:
    """Continue an interrupted run from its last checkpoint."""

    run_dir: tyro.conf.Positional[Path]
    """Folder of the run."""
    total_timesteps: int | None = None
    """Train on until this many steps instead of the run's own; what falls over the run, such as learning rates and KL
    bands, is then higher again. RAT's weight decay stays; many more steps want less (see ratpg train --help)."""
    backend: Backend | None = None
    """Another simulator than the run's own."""
    device: str | None = None
    """Another torch device than the run's own."""
    threads: int | None = None
    """Another number of threads than the run's own."""
    trust_env: bool = False
    """Let a run whose environment is MODULE:ID import that module: then code that the run folder names is run."""


def train(arguments: list[str]) -> int:
    """Starts a run and trains it."""
    with _stop_signal() as should_stop:
        return _run(Trainer.start(parse_train(arguments)), should_stop)


def resume(arguments: list[str]) -> int:
    """Goes on with a run."""
    options = parse(ResumeArguments, "resume", arguments)
    changes = {name: value for name, value in vars(options).items() if name != "run_dir" and value is not None}
    with _stop_signal() as should_stop:
        trainer, exact = Trainer.resume(options.run_dir, **changes)  # trust_env among them
        if trainer.timesteps >= trainer.config.total_timesteps:
            print(f"{options.run_dir} is complete at {trainer.timesteps} steps: go on with --total-timesteps N")
            return 0
        how = "exactly where it was" if exact else "with fresh episodes (the simulators' states were not saved)"
        print(f"resuming {options.run_dir} at {trainer.timesteps} steps, {how}")
        return _run(trainer, should_stop)


def _run(trainer: Trainer, should_stop: Callable[[], bool]) -> int:
    config, directory = trainer.config, trainer.config.directory
    console = _Console()
    if trainer.policy.spec.convolutional and trainer.policy.device.type == "cpu":
        keep_freed_memory()
    say(f"{config.algo} ({config.preset}) on {config.env}, seed {config.seed} -> {directory}")
    try:
        with ProgressDisplay(config.total_timesteps, trainer.timesteps, console) as display:
            complete = trainer.run(display.show, should_stop, warn=lambda line: say(f"ratpg: {line}", sys.stderr))
    except KeyboardInterrupt:
        say(f"stopped at once; continue from the last checkpoint with: {resume_command(config)}")
        return INTERRUPTED
    if not complete:
        say(f"interrupted at {trainer.timesteps} steps; continue with: {resume_command(config)}")
        return INTERRUPTED
    say(
        f"done: {trainer.timesteps} steps in {trainer.wall_time:.0f} s, return {trainer.episodes.return_mean():.1f} "
        f"(mean of the last {len(trainer.episodes.returns)} episodes), in {directory}"
    )
    return 0


@contextlib.contextmanager
def _stop_signal() -> Iterator["_Stop"]:
    """Turns the first Ctrl-C (or SIGTERM, or a terminal's end) into a request to stop after this rollout; a second one
    stops at once."""
    stop = _Stop()
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # and not what nohup ignores
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, stop.request) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Console(Console):
    """A console whose terminal may end without ending the training."""

    def on_broken_pipe(self) -> None:
        self.quiet = True


class _Stop:
    def __init__(self) -> None:
        self.requested = False

    def __call__(self) -> bool:
        return self.requested

    def request(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        with contextlib.suppress(OSError):  # the terminal may be what has ended
            # Not by print, within which the signal may have come.
            os.write(2, b"stopping after this rollout; press Ctrl-C again to stop at once\n")
