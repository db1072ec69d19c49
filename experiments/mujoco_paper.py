"""Returns on MuJoCo under the preset ``paper``, the authors' protocol, for a million of their ten million steps.

    ratpg reproduce mujoco_paper [--parallel 2] [--seeds 0]

One seed, two on Hopper and HalfCheetah; Ant with the paper's 105 dimensions. Trains what ``results/runs.csv`` lacks
(``--redraw``: nothing), then writes ``results/mujoco_paper/``.
"""

from collections.abc import Sequence
from typing import Any

import suite
from mujoco_ import ALGORITHMS, SHARED, STEPS
from run import Row, Run
from trainings import run

TASKS = ("Hopper-v4", "HalfCheetah-v4", "Walker2d-v4", "Ant-v5", "Swimmer-v4", "Humanoid-v4", "HumanoidStandup-v4")


def _run(algo: str, env: str, seed: int, shared: bool = False) -> Run:
    name, flags = f"{algo}-paper", ("--algo", algo, "--preset", "paper")
    return Run(f"{name}-shared" if shared else name, env, seed, STEPS, (*flags, "--shared") if shared else flags)


RUNS = [_run(algo, env, seed) for seed in range(2) for algo in SHARED for env in TASKS[:2]]
RUNS += [_run(algo, env, 0) for algo in ALGORITHMS for env in TASKS if algo == "trpo" or env not in TASKS[:2]]
RUNS += [_run(algo, env, 0, shared=True) for algo in SHARED for env in TASKS]


def draw(rows: Sequence[Row]) -> dict[str, Any]:
    suite.draw_humanoid("mujoco_paper", RUNS)
    return suite.draw("mujoco_paper", RUNS, rows)


if __name__ == "__main__":
    run(__doc__, "mujoco_paper", RUNS, draw)
