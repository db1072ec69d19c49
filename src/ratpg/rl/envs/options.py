"""Options of an environment as they are written on a command line."""

import json
from collections.abc import Sequence
from typing import Any


class BadOption(ValueError):
    """An option of an environment that cannot be read."""


def parse_options(options: Sequence[str]) -> dict[str, Any]:
    """``("num_levels=10", "mode=easy")`` -> ``{"num_levels": 10, "mode": "easy"}``: values are JSON, or else words.

    Raises:
        BadOption: where there is no name, or no value, or one is given twice.
    """
    parsed: dict[str, Any] = {}
    for option in options:
        name, equals, value = option.partition("=")
        if not (name and equals and value):
            raise BadOption(f"options of an environment are written name=value, got '{option}'")
        if name in parsed:
            raise BadOption(f"option '{name}' of the environment is given twice")
        try:
            parsed[name] = json.loads(value)
        except json.JSONDecodeError:
            parsed[name] = value
        except (RecursionError, ValueError) as error:  # more levels, or more digits, than JSON is read with
            raise BadOption(f"option '{name}' of the environment is too long or too deep to be read") from error
    return parsed


def merge_options(options: Sequence[str], changes: Sequence[str]) -> tuple[str, ...]:
    """The options, those of the same name replaced by the changes, and the other changes after them."""
    changed = parse_options(changes)
    return (*(option for option in options if option.partition("=")[0] not in changed), *changes)
