"""Ratios of two things in one run: the machines are noisy, so the two take turns and medians are quoted."""

import importlib.util
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch


def interleaved(tasks: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Median seconds of each task, over rounds in which every task runs once, after one round to warm up."""
    seconds: list[list[float]] = [[] for _ in tasks]
    for task in tasks:
        task()
    for _ in range(repeats):
        for collected, task in zip(seconds, tasks, strict=True):
            start = time.perf_counter()
            task()
            collected.append(time.perf_counter() - start)
    return [statistics.median(collected) for collected in seconds]


def rate(task: Callable[[], int]) -> float:
    start = time.perf_counter()
    return task() / (time.perf_counter() - start)


def peak_memory_of(task: Callable[[], object]) -> int:
    """Bytes by which a task raises this process's resident memory at its peak."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from what is resident
    before = _peak_memory()
    task()
    return _peak_memory() - before


def _peak_memory() -> int:
    # Not getrusage's ru_maxrss, which a child process inherits from its parent.
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def in_fresh_process(arguments: Sequence[str]) -> dict[str, float]:
    """Runs this very script again with other arguments and reads the JSON it prints last."""
    output = subprocess.run([sys.executable, sys.argv[0], *arguments], capture_output=True, text=True, check=True)
    return json.loads(output.stdout.splitlines()[-1])


def machine(device: str = "cpu") -> str:
    """The machine in a line, with its GPU where that is the device."""
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as file:
            model = next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except OSError:
        pass
    if device != "cpu":
        model = f"{torch.cuda.get_device_name(device)}, {model}"
    return f"{model}, {torch.get_num_threads()} threads, torch {torch.__version__}, Python {platform.python_version()}"


def require_peers() -> None:
    """Ends the program with advice where the libraries that are compared with are not installed."""
    if any(importlib.util.find_spec(name) is None for name in ("stable_baselines3", "sb3_contrib")):
        sys.exit("this compares with Stable-Baselines3: pip install --editable '.[bench]' first")
