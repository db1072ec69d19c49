"""Returns on MuJoCo: preset ``default`` over three seeds, preset ``paper`` over one.

    ratpg reproduce mujoco [--parallel 2] [--seeds 0]

Trains what ``results/runs.csv`` lacks (``--redraw``: nothing), then writes ``results/mujoco/``.
"""

from runner import Run
from trainings import run

STEPS = 1_000_000
DEFAULT = [
    Run("rat-default", env, seed, STEPS)
    for seed in range(3)
    for env in ("Ant-v4", "Walker2d-v4", "HalfCheetah-v4", "Hopper-v4")
]
PAPER = [Run("rat-paper", env, 0, STEPS, ("--preset", "paper")) for env in ("Hopper-v4", "HalfCheetah-v4")]
RUNS = DEFAULT + PAPER


if __name__ == "__main__":
    run(__doc__, "mujoco", RUNS)
