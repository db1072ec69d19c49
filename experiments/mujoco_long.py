"""Ten million steps of MuJoCo, as the paper has them: RAT's preset ``default`` on five tasks, PPO's on two.

    ratpg reproduce mujoco_long [--parallel 2]

Trains what ``results/runs.csv`` lacks (``--redraw``: nothing), then writes ``results/mujoco_long/``.
"""

from collections.abc import Sequence
from typing import Any

import suite
from mujoco_ import TASKS
from run import Row, Run
from trainings import run

STEPS = 10_000_000
RUNS = [Run("rat-default-10M", env, 0, STEPS) for env in TASKS]
RUNS += [Run("rat-weight-decay-0.001-10M", "HalfCheetah-v4", 0, STEPS, ("--weight-decay", "0.001"))]
RUNS += [Run("ppo-default-10M", env, 0, STEPS, ("--algo", "ppo")) for env in TASKS[:2]]


def draw(rows: Sequence[Row]) -> dict[str, Any]:
    return suite.draw("mujoco_long", RUNS, rows)


if __name__ == "__main__":
    run(__doc__, "mujoco_long", RUNS, draw)
