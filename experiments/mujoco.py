"""Returns on MuJoCo: preset ``default`` over three seeds, preset ``paper`` over one.

    python experiments/mujoco.py [--parallel 2]

Trains what ``results/runs.csv`` lacks (``--parallel 0``: nothing), then writes ``results/mujoco/``.
"""

import argparse
from pathlib import Path

from ratpg.training.plots import plot_curves
from runner import Run, curves_of, markdown, results_of, run_all

RESULTS = Path("results/mujoco")
STEPS = 1_000_000
DEFAULT = [
    Run("rat-default", env, seed, STEPS)
    for seed in range(3)
    for env in ("Ant-v4", "Walker2d-v4", "HalfCheetah-v4", "Hopper-v4")
]
PAPER = [Run("rat-paper", env, 0, STEPS, ("--preset", "paper")) for env in ("Hopper-v4", "HalfCheetah-v4")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parallel", type=int, default=2, help="single-threaded trainings at a time")
    arguments = parser.parse_args()
    runs = DEFAULT + PAPER
    if arguments.parallel:
        run_all(runs, arguments.parallel)
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "table.md").write_text(markdown(results_of(runs)))
    plot_curves(curves_of(runs), RESULTS / "curves")


if __name__ == "__main__":
    main()
