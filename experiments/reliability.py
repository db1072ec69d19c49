"""RAT and PPO over ten seeds of five tasks and three of both Humanoids: a million steps of each preset ``default``.

    ratpg reproduce reliability [--parallel 2] [--seeds 3 4]

The first three seeds are those of ``mujoco``. Trains what ``results/runs.csv`` lacks (``--redraw``: nothing), then
writes ``results/reliability/``.
"""

from collections.abc import Sequence
from typing import Any

import suite
from mujoco_ import HUMANOIDS, STEPS, TASKS
from run import Row, Run
from trainings import run

ALGORITHMS = ("rat", "ppo")
RUNS = [
    Run(f"{algo}-default", env, seed, STEPS, ("--algo", algo))
    for seed in range(10)
    for env in (*TASKS, *(HUMANOIDS if seed < 3 else ()))
    for algo in ALGORITHMS
]


def draw(rows: Sequence[Row]) -> dict[str, Any]:
    return suite.draw("reliability", RUNS, rows)


if __name__ == "__main__":
    run(__doc__, "reliability", RUNS, draw)
