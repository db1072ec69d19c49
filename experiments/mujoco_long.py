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
UNBOUND = ("--min-log-std", "None")
"""Without the bound on the noise of actions that RAT's preset has for runs of more than a million steps."""
RUNS += [Run("rat-no-min-log-std-10M", env, 0, STEPS, UNBOUND) for env in TASKS[:2]]
RUNS += [Run("rat-preset-of-1M-10M", "HalfCheetah-v4", 0, STEPS, ("--weight-decay", "0.001", *UNBOUND))]
RUNS += [Run("ppo-default-10M", env, 0, STEPS, ("--algo", "ppo")) for env in TASKS[:2]]


def draw(rows: Sequence[Row]) -> dict[str, Any]:
    return suite.draw("mujoco_long", RUNS, rows)


if __name__ == "__main__":
    run(__doc__, "mujoco_long", RUNS, draw)
