"""From command lines to dataclasses."""

import argparse
import contextlib
import io
import itertools
import operator
from dataclasses import replace
from typing import Any

import tyro

from ratpg.algorithms import CONFIGS
from ratpg.cli import Shown
from ratpg.rl.envs.options import merge_options
from ratpg.training.config import TrainConfig
from ratpg.training.presets import PRESETS, preset


class BadArguments(ValueError):
    """A command line that cannot be understood."""


def parse(kind: Any, command: str, arguments: list[str], **options: Any) -> Any:
    """Arguments as a dataclass; tyro's boxed complaints become the one line that `BadArguments` carries."""
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(kind, prog=f"ratpg {command}", args=arguments, **options)
    except SystemExit as exit:
        if exit.code in (0, None):
            raise Shown from None
        lines = [line.strip("│╭╮╰╯ ") for line in complaint.getvalue().splitlines()[1:]]
        lines = ["" if set(line) <= {"─", "-"} else line for line in lines]  # rules; of dashes where not UTF-8
        words = itertools.takewhile(bool, itertools.dropwhile(operator.not_, lines))
        message = " ".join(words).removeprefix(f"Error parsing {kind.__name__}: ")
        raise BadArguments(f"{message} (see ratpg {command} --help)") from None


def parse_train(arguments: list[str]) -> TrainConfig:
    """The run that ``ratpg train`` makes of these arguments.

    Raises:
        BadArguments, BadConfig, BadOption: in one line what is wrong with them.
    """
    # Which defaults there are, and which hyperparameters, depends on these flags; tyro then reads all.
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    first.add_argument("--algo", default="rat")
    first.add_argument("--preset", default="default")
    first.add_argument("--env", default="")
    first.add_argument("--shared", action=argparse.BooleanOptionalAction, default=False)
    first.add_argument("--total-timesteps", "--total_timesteps", type=_steps, default=TrainConfig.total_timesteps)
    try:
        chosen, _ = first.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise BadArguments(f"{error} (see ratpg train --help)") from None
    defaults = preset(chosen.algo, chosen.preset, chosen.env, chosen.shared, chosen.total_timesteps)
    generic: Any = TrainConfig
    config: TrainConfig = parse(
        generic[CONFIGS[chosen.algo]],
        "train",
        arguments,
        description=f"Train an agent. Algorithms: {', '.join(CONFIGS)}; presets: {', '.join(PRESETS[chosen.algo])}.",
        default=TrainConfig(**defaults | {"env": tyro.MISSING}),
    )
    return replace(config, env_options=merge_options(defaults.get("env_options", ()), config.env_options))


def _steps(text: str) -> int:
    """A number of steps; of what is none tyro complains."""
    try:
        return int(text)
    except ValueError:
        return TrainConfig.total_timesteps
