"""Checkpoints that somebody has changed: each is used as it is, or refused in one line."""

import copy
import json
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from cli.command import Command
from ratpg.training import checkpoint
from short_runs import ROLLOUT

STRANGE: list[Any] = [None, [], {}, "x", "x\x1b[2J", -1, 4.5, 10**30, math.nan, True, torch.zeros(3, 7), [[]] * 9]
"""Values that take the place of every one in turn."""
AT_ONCE, MANY = 40, 600
"""Changed checkpoints looked at, of 4,800 that there are: in the default run, and in the slow one."""


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every key of a tree, and of those within."""
    if isinstance(tree, dict | list | tuple):
        for key, part in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield (*path, key)
            yield from places(part, (*path, key))


def changed(tree: Any, path: tuple[Any, ...], value: Any) -> Any:
    """The tree with another value in one place."""
    if not path:
        return value
    copied = copy.copy(tree) if not isinstance(tree, tuple) else list(tree)
    copied[path[0]] = changed(tree[path[0]], path[1:], value)
    return tuple(copied) if isinstance(tree, tuple) else copied


def run_of(ratpg: Command, folder: Path, algo: str) -> dict[str, Any]:
    assert ratpg.train("CartPole-v1", folder, "--algo", algo).code == 0
    state = checkpoint.load(folder)
    return {key: value for key, value in state.items() if key != "version"} | {"config": json.loads(state["config"])}


def try_all(ratpg: Command, folder: Path, algo: str, count: int) -> None:
    state = run_of(ratpg, folder, algo)
    cases = random.Random(0).sample([(place, value) for place in places(state) for value in STRANGE], count)
    metrics = (folder / "metrics.csv").read_text()
    for place, value in cases:
        bad = changed(state, place, value)
        try:
            bad["config"] = json.dumps(bad["config"]) if place != ("config",) else value
        except TypeError:  # no JSON
            continue
        checkpoint.save(folder, bad)
        (folder / "checkpoint.previous.pt").unlink()
        (folder / "metrics.csv").write_text(metrics)
        for command in (["eval", folder, "--episodes", 1], ["resume", folder, "--total-timesteps", 3 * ROLLOUT]):
            result = ratpg(*command)  # in which a traceback would be raised
            assert result.code in (0, 2), (place, value)
            assert result.code == 0 or result.err.count("\n") == 1, (place, value, result.err)
            assert "\x1b" not in result.out + result.err, (place, value)


def test_some_changed_checkpoints(ratpg: Command, tmp_path: Path) -> None:
    try_all(ratpg, tmp_path, "rat", AT_ONCE)


@pytest.mark.slow
@pytest.mark.parametrize("algo", ["rat", "ppo", "acktr"])
def test_many_changed_checkpoints(ratpg: Command, algo: str, tmp_path: Path) -> None:
    try_all(ratpg, tmp_path, algo, MANY)


CHANGES = {
    "env null": (("config", "env"), None, "env cannot be 'None'"),
    "a float for a count": (("config", "num_envs"), 4.0, "num_envs cannot be '4.0'"),
    "a spec that is a list": (("spec",), [1], "spec cannot be"),
    "a step size that is a word": (("algorithm", "step_size"), "x", "algorithm.step_size cannot be 'x'"),
    "weights that are not finite": (("policy", "actor.head.weight"), torch.full((2, 16), math.nan), "not finite"),
    "moments that are not finite": (("algorithm", "step_size"), math.inf, "algorithm.step_size is not finite"),
}


@pytest.mark.parametrize("place, value, words", CHANGES.values(), ids=CHANGES.keys())
def test_a_change_is_refused_by_name(
    ratpg: Command, place: tuple[str, ...], value: Any, words: str, tmp_path: Path
) -> None:
    state = changed(run_of(ratpg, tmp_path, "rat"), place, value)
    checkpoint.save(tmp_path, state | {"config": json.dumps(state["config"])})
    spare = f"mv {tmp_path / 'checkpoint.previous.pt'} {tmp_path / 'checkpoint.pt'}"
    for command in ("resume", "eval", "export", "video"):
        flags = ["--total-timesteps", 999] if command == "resume" else []
        if command not in ("resume",) and place[0] == "algorithm" and value == "x":
            continue  # which only a training reads
        result = ratpg(command, tmp_path, *flags)
        assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
        assert words in result.err and result.err.endswith(f"; an older one is there: {spare}\n")
        assert "last good" not in result.err
    assert not list(tmp_path.glob("*.onnx")) and not list(tmp_path.glob("*.mp4"))
