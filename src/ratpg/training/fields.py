"""Plain values against the types that they are declared with: what a file holds may have been written by anybody."""

import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypeVar, Union

import torch

EXACT = (bool, int)
"""Types of which a subclass is another type: a bool is no int here."""


def check_fields(kind: type, values: Mapping[str, Any]) -> None:
    """Refuses values that are not of the types that a dataclass or TypedDict declares; a missing one is no fault.

    Raises:
        TypeError: naming the field.
    """
    if not isinstance(values, Mapping):
        raise TypeError(f"{kind.__name__} is read from {type(values).__name__}, not from named values")
    for name, hint in typing.get_type_hints(kind).items():
        if name in values and not matches(values[name], hint):
            raise TypeError(f"{name} cannot be {str(values[name])[:40]!r}")


def matches(value: Any, hint: Any) -> bool:
    """Whether a plain value is of a type; lists count as tuples, and whole numbers as float."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or isinstance(hint, TypeVar):
        return True
    if origin in (Union, types.UnionType):
        return any(matches(value, argument) for argument in arguments)
    if origin is Literal:
        return any(type(value) is type(argument) and value == argument for argument in arguments)
    if typing.is_typeddict(hint):
        hints = typing.get_type_hints(hint)
        return isinstance(value, dict) and all(name in value and matches(value[name], hints[name]) for name in hints)
    if origin is dict:
        return isinstance(value, dict) and all(
            matches(k, arguments[0]) and matches(v, arguments[1]) for k, v in value.items()
        )
    if origin in (tuple, list):
        if not isinstance(value, list | tuple):
            return False
        each = arguments[:1] * len(value) if origin is list or arguments[-1] is ... else arguments
        return len(each) == len(value) and all(map(matches, value, each))
    if hint is float:
        return type(value) is float or (type(value) is int and abs(value) <= 2**53)
    if hint is str:
        return type(value) is str and value.isprintable()
    return type(value) is hint if hint in EXACT else isinstance(value, hint)


def like(value: Any, template: Any, name: str = "it") -> None:
    """Refuses a tree of plain values and tensors that is not built as another: what the other has it must have, with
    the same types and shapes; dictionaries that are empty there may hold anything here.

    Raises:
        TypeError: naming the place.
    """
    if isinstance(template, dict):
        if not isinstance(value, dict) or not template.keys() <= value.keys():
            raise TypeError(f"{name} is not whole")
        for key, part in template.items():
            like(value[key], part, f"{name}.{key}")
    elif isinstance(template, list | tuple):
        if not isinstance(value, list | tuple) or len(value) != len(template):
            raise TypeError(f"{name} is not whole")
        for index, part in enumerate(template):
            like(value[index], part, f"{name}.{index}")
    elif isinstance(template, torch.Tensor):
        if not isinstance(value, torch.Tensor) or value.shape != template.shape or value.dtype != template.dtype:
            raise TypeError(f"{name} is no tensor of the right shape")
    elif not matches(value, float if type(template) is float else type(template)):
        raise TypeError(f"{name} cannot be {str(value)[:40]!r}")


def not_finite(value: Any, name: str = "it") -> str | None:
    """The first place in a tree of plain values and tensors with a NaN or an infinity; None where there is none."""
    for place, leaf in _leaves(value, name, set()):
        if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() and not bool(leaf.isfinite().all()):
            return place
        if isinstance(leaf, float) and not abs(leaf) < float("inf"):
            return place
    return None


def _leaves(value: Any, name: str, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """What is in the tree, each part once however often it is referred to."""
    if not isinstance(value, dict | list | tuple):
        yield name, value
    elif id(value) not in seen:
        seen.add(id(value))
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(part, f"{name}.{key}", seen)
