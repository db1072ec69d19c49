"""Options of an environment as they are written on a command line."""

import json
from collections.abc import Sequence
from typing import Any


class BadOption(ValueError):
    """An option of an environment that cannot be read."""


def parse_options(options: Sequence[str]) -> dict[str, Any]:
    """``("num_levels=10", "mode=easy")`` -> ``{"num_levels": 10, "mode": "easy"}``: values are JSON, or else words.

    Raises:
        BadOption: where there is no name, or no value.
    """
    parsed: dict[str, Any] = {}
    for option in options:
        name, equals, value = option.partition("=")
        if not (name and equals and value):
            raise BadOption(f"options of an environment are written name=value, got '{option}'")
        try:
            parsed[name] = json.loads(value)
        except json.JSONDecodeError:
            parsed[name] = value
    return parsed
