"""The ``ratpg`` command.

Exit codes: 0 on success; 2 and one line on bad input, or where a run cannot go on (it diverged, the disk is full); 130
after Ctrl-C or SIGTERM (the run can be resumed).
"""

import argparse
import contextlib
import functools
import io
import itertools
import json
import operator
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import torch
import tyro
from rich.console import Console

from ratpg import __version__
from ratpg.algorithms import CONFIGS
from ratpg.algorithms.checks import require
from ratpg.natgrad import CaptureError
from ratpg.rl.envs import Backend
from ratpg.rl.envs.options import parse_options
from ratpg.training.config import TrainConfig
from ratpg.training.evaluate import evaluate
from ratpg.training.logging import ProgressDisplay, say
from ratpg.training.presets import PRESETS, preset
from ratpg.training.trainer import Trainer, load_policy

BAD_INPUT, INTERRUPTED = 2, 130
REPOSITORY = Path(__file__).resolve().parents[2]
USAGE = """usage: ratpg COMMAND ...

  train      train an agent                    ratpg train --env Hopper-v4
  resume     continue an interrupted run       ratpg resume RUN_DIR
  eval       run deterministic episodes        ratpg eval RUN_DIR --episodes 10
  plot       draw learning curves              ratpg plot RUN_DIR [RUN_DIR ...]
  bench      measure speed or memory           ratpg bench throughput
  reproduce  make the paper's evidence again   ratpg reproduce gaussian

`ratpg COMMAND --help` lists a command's options."""


class BadArguments(ValueError):
    """A command line that cannot be understood."""


@dataclass(frozen=True)
class ResumeArguments:
    """Continue an interrupted run from its last checkpoint."""

    run_dir: tyro.conf.Positional[Path]
    """Folder of the run."""
    total_timesteps: int | None = None
    """Train on until this many steps instead of the run's own; what falls over the run, such as learning rates and KL
    bands, is then higher again."""
    backend: Backend | None = None
    """Another simulator than the run's own."""
    device: str | None = None
    """Another torch device than the run's own."""
    threads: int | None = None
    """Another number of threads than the run's own."""


@dataclass(frozen=True)
class EvalArguments:
    """Run deterministic episodes with a trained policy; prints JSON."""

    run_dir: tyro.conf.Positional[Path]
    """Folder of the run."""
    episodes: int = 10
    """How many."""
    seed: int = 1000
    """Seed of the environments."""
    backend: Backend | None = None
    """Another simulator than the run's own."""
    env_options: tuple[str, ...] | None = None
    """Other options of the environment than the run's own, each name=value; such as num_levels=0 start_level=10, the
    levels of Procgen that it was not trained on."""
    summary: bool = False
    """Print one line for people instead of JSON."""


@dataclass(frozen=True)
class PlotArguments:
    """Draw the learning curves of one or more runs."""

    run_dirs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of runs."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """The figure, written as PNG and SVG; learning-curve in the (first) run's folder unless given, or in this one."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code. With RATPG_DEBUG set, errors keep their traceback."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    commands: dict[str, Callable[[list[str]], int]] = {
        "train": _train,
        "resume": _resume,
        "eval": _eval,
        "plot": _plot,
        "bench": functools.partial(_script, "benchmark"),
        "reproduce": functools.partial(_script, "experiment"),
    }
    if arguments[:1] == ["--version"]:
        print(f"ratpg {__version__}")
        return 0
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if arguments else BAD_INPUT
    if arguments[0] not in commands:
        return _fail(f"unknown command '{arguments[0]}': there are {', '.join(commands)}")
    try:
        return commands[arguments[0]](arguments[1:])
    except SystemExit:  # --help
        return 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # nobody reads the output any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still to be flushed
        return BAD_INPUT
    except (ValueError, OSError, CaptureError, torch.OutOfMemoryError, torch.linalg.LinAlgError) as error:
        if os.environ.get("RATPG_DEBUG"):
            raise
        return _fail(" ".join(str(error).split()))


def _parse(kind: Any, command: str, arguments: list[str], **options: Any) -> Any:
    """Arguments as a dataclass; tyro's boxed complaints become the one line that `BadArguments` carries."""
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(kind, prog=f"ratpg {command}", args=arguments, **options)
    except SystemExit as exit:
        if exit.code in (0, None):
            raise
        lines = [line.strip("│╭╮╰╯ ") for line in complaint.getvalue().splitlines()[1:]]
        lines = ["" if set(line) <= {"─", "-"} else line for line in lines]  # rules; of dashes where not UTF-8
        words = itertools.takewhile(bool, itertools.dropwhile(operator.not_, lines))
        message = " ".join(words).removeprefix(f"Error parsing {kind.__name__}: ")
        raise BadArguments(f"{message} (see ratpg {command} --help)") from None


def _fail(message: str) -> int:
    print(f"ratpg: {message}", file=sys.stderr)
    return BAD_INPUT


def _train(arguments: list[str]) -> int:
    with _stop_signal() as should_stop:
        return _run(Trainer.start(parse_train(arguments)), should_stop)


def parse_train(arguments: list[str]) -> TrainConfig:
    """The run that ``ratpg train`` makes of these arguments.

    Raises:
        BadArguments, BadConfig: in one line what is wrong with them.
    """
    # Which defaults there are, and which hyperparameters, depends on these flags; tyro then reads all.
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    first.add_argument("--algo", default="rat")
    first.add_argument("--preset", default="default")
    first.add_argument("--env", default="")
    first.add_argument("--shared", action="store_true")
    try:
        chosen, _ = first.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise BadArguments(f"{error} (see ratpg train --help)") from None
    defaults = preset(chosen.algo, chosen.preset, chosen.env, chosen.shared)
    generic: Any = TrainConfig
    return _parse(
        generic[CONFIGS[chosen.algo]],
        "train",
        arguments,
        description=f"Train an agent. Algorithms: {', '.join(CONFIGS)}; presets: {', '.join(PRESETS[chosen.algo])}.",
        default=TrainConfig(**defaults | {"env": tyro.MISSING}),
    )


def _resume(arguments: list[str]) -> int:
    options = _parse(ResumeArguments, "resume", arguments)
    changes = {name: value for name, value in vars(options).items() if name != "run_dir" and value is not None}
    with _stop_signal() as should_stop:
        trainer, exact = Trainer.resume(options.run_dir, **changes)
        if trainer.timesteps >= trainer.config.total_timesteps:
            print(f"{options.run_dir} is complete at {trainer.timesteps} steps: go on with --total-timesteps N")
            return 0
        how = "exactly where it was" if exact else "with fresh episodes (the simulators' states were not saved)"
        print(f"resuming {options.run_dir} at {trainer.timesteps} steps, {how}")
        return _run(trainer, should_stop)


def _eval(arguments: list[str]) -> int:
    options = _parse(EvalArguments, "eval", arguments)
    require("episodes", options.episodes, at_least=1)
    require("seed", options.seed, at_least=0)
    policy, config = load_policy(options.run_dir)
    result = evaluate(
        policy,
        config.env,
        episodes=options.episodes,
        seed=options.seed,
        backend=options.backend or config.backend,
        threads=config.threads,
        options=parse_options(config.env_options if options.env_options is None else options.env_options),
    )
    if options.summary:
        print(
            f"{options.episodes} deterministic episodes of {config.env}: return {result.mean:.1f} ± {result.std:.1f}; "
            f"run in {options.run_dir}"
        )
        return 0
    print(json.dumps({"env": config.env, "episodes": options.episodes, **vars(result)}))
    return 0


def _plot(arguments: list[str]) -> int:
    from ratpg.training.plots import plot_runs  # slow to import, and of no use to the other commands

    options = _parse(PlotArguments, "plot", arguments)
    if not options.run_dirs:
        raise ValueError("name at least one run folder")
    output = options.output or options.run_dirs[0]
    for path in plot_runs(options.run_dirs, output / "learning-curve" if output.is_dir() else output):
        print(path)
    return 0


def _script(kind: str, arguments: list[str]) -> int:
    """Runs a script of the repository's ``benchmarks/`` or ``experiments/`` with its options, from the repository."""
    folder = REPOSITORY / f"{kind}s"
    # A trailing _ keeps a script from hiding the package of its name from those beside it: mujoco_.py.
    names = {path.stem.rstrip("_"): path for path in folder.glob("*.py") if "__main__" in path.read_text()}
    if not names:
        raise ValueError(
            f"the {kind}s are part of the repository, not of the installed package: clone it and `make setup`"
        )
    if not arguments or arguments[0] not in names:
        raise BadArguments(f"name one of the {kind}s: {', '.join(sorted(names))} (and its options, or --help)")
    return subprocess.run([sys.executable, names[arguments[0]], *arguments[1:]], cwd=REPOSITORY).returncode


def _run(trainer: Trainer, should_stop: Callable[[], bool]) -> int:
    config, directory = trainer.config, trainer.config.directory
    console = _Console()
    say(f"{config.algo} ({config.preset}) on {config.env}, seed {config.seed} -> {directory}")
    try:
        with ProgressDisplay(config.total_timesteps, trainer.timesteps, console) as display:
            complete = trainer.run(on_row=display.show, should_stop=should_stop)
    except KeyboardInterrupt:
        say(f"stopped at once; continue from the last checkpoint with: ratpg resume {directory}")
        raise
    if not complete:
        say(f"interrupted at {trainer.timesteps} steps; continue with: ratpg resume {directory}")
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
            print("stopping after this rollout; press Ctrl-C again to stop at once", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
