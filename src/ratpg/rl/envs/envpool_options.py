"""Options of EnvPool's environments, some of which end the process: they are refused before EnvPool sees them."""

import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

INT_MAX = 2**31 - 1
OWN = dict.fromkeys(("num_envs", "seed", "env_seed", "num_threads"), "a setting of the run, not of the environment")
OWN |= dict.fromkeys(("task", "env_name", "distribution_mode"), "what the environment's id says: choose another id")
OWN |= {"batch_size": "for environments that are stepped in any order", "base_path": "where EnvPool has its own files"}
"""Options of EnvPool that are not for the user -> what they are."""
KNOWN: dict[str, tuple[float, float]] = {
    "frame_skip": (1, 1000),
    "frame_stack": (1, 64),
    "img_height": (1, 1024),
    "img_width": (1, 1024),
    "max_episode_steps": (1, INT_MAX),
    "noop_max": (1, 10_000),
    "num_levels": (0, INT_MAX),
    "repeat_action_probability": (0, 1),
    "reward_threshold": (-float("inf"), float("inf")),
    "stack_num": (1, 64),
    "start_level": (0, INT_MAX),
}
"""Options whose values within these bounds are known to be well: beyond them EnvPool crashes, or does not come back."""
PATIENCE = 60.0
"""Seconds within which an environment has to be made and stepped."""
TRIAL = """
import json, os, resource, sys
resource.setrlimit(resource.RLIMIT_AS, (os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),) * 2)
import envpool, numpy
pool = envpool.make_gymnasium(sys.argv[1], num_envs=1, num_threads=1, **json.loads(sys.argv[2]))
pool.reset()
for _ in range(4):
    pool.step(numpy.array([pool.action_space.sample()]))
"""


def check_options(env_id: str, options: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Refuses what EnvPool would not, or would answer by ending the process or by never coming back.

    Options that are neither switches nor `KNOWN` are tried in a process of their own first, which takes some seconds.

    Args:
        env_id: the environment's id.
        options: the options, name -> value.
        defaults: every option that the environment has, name -> default.

    Raises:
        TypeError: naming the option.
    """
    for name, value in options.items():
        if name in OWN:
            raise TypeError(f"{name} is {OWN[name]}")
        if name not in defaults:
            raise TypeError(f"it has no option {name}")
        default, kind = defaults[name], type(defaults[name])
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise TypeError(f"{name} must be {kind.__name__}, as its default {default} is")
        if kind is int and not -INT_MAX <= value <= INT_MAX:
            raise TypeError(f"{name} must be a number of 32 bits")
        least, most = KNOWN.get(name, (0 if kind is int and default >= 0 else value, value))
        if not least <= value:
            raise TypeError(f"{name} must be at least {least:g}")
        if not value <= most:
            raise TypeError(f"{name} must be at most {most:g}")
    if any(name not in KNOWN and type(value) is not bool for name, value in options.items()):
        _try_out(env_id, options)


def _try_out(env_id: str, options: Mapping[str, Any]) -> None:
    """Makes and steps one environment in a process of its own."""
    command = [sys.executable, "-P", "-c", TRIAL, env_id, json.dumps(dict(options))]
    try:
        done = subprocess.run(command, capture_output=True, timeout=PATIENCE, text=True, errors="replace")
    except subprocess.TimeoutExpired as error:
        raise TypeError(f"EnvPool does not come back with these within {PATIENCE:.0f} s") from error
    if done.returncode < 0:
        raise TypeError(f"EnvPool ends the process with {signal.Signals(-done.returncode).name}")
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"EnvPool ends the process with code {done.returncode}"]
        raise TypeError(lines[-1])
