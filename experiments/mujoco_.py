"""Returns on MuJoCo with every algorithm's preset ``default``: a million steps, three seeds.

    ratpg reproduce mujoco [--parallel 2] [--seeds 0]

Five tasks over three seeds with separate networks, the two Humanoids and shared networks with one. Trains what
``results/runs.csv`` lacks (``--redraw``: nothing), then writes ``results/mujoco/``.
"""

from collections.abc import Sequence
from typing import Any

import suite
from run import Row, Run
from trainings import run

STEPS, SEEDS = 1_000_000, range(3)
TASKS = ("Hopper-v4", "HalfCheetah-v4", "Walker2d-v4", "Ant-v4", "Swimmer-v4")
HUMANOIDS = ("Humanoid-v4", "HumanoidStandup-v4")
ALGORITHMS = ("rat", "ppo", "trpo", "acktr", "diag")
SHARED = ("rat", "ppo", "acktr", "diag")
"""Algorithms that can share layers between actor and critic."""

SEPARATE = {f"{algo}-default": ("--algo", algo) for algo in ALGORITHMS}
SEPARATE["rat-gauss-newton"] = ("--critic", "gauss-newton")
RUNS = [Run(name, env, seed, STEPS, flags) for seed in SEEDS for name, flags in SEPARATE.items() for env in TASKS]
RUNS += [Run(f"{algo}-default", env, 0, STEPS, ("--algo", algo)) for algo in ALGORITHMS for env in HUMANOIDS]
RUNS += [
    Run(f"{algo}-default-shared", env, 0, STEPS, ("--algo", algo, "--shared"))
    for algo in SHARED
    for env in TASKS + HUMANOIDS
]


def draw(rows: Sequence[Row]) -> dict[str, Any]:
    return suite.draw("mujoco", RUNS, rows)


if __name__ == "__main__":
    run(__doc__, "mujoco", RUNS, draw)
