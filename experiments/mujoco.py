"""Returns on MuJoCo: preset ``default`` over three seeds, preset ``paper`` over one.

    python experiments/mujoco.py [--parallel 2] [--steps 1000000]

Trains what is missing in ``runs/evidence``, then writes ``results/mujoco/``.
"""

import argparse
from pathlib import Path

from ratpg.training.plots import plot_runs
from runner import Run, markdown, run_all, write_curves, write_runs

ROOT, RESULTS = Path("runs/evidence"), Path("results/mujoco")


def plan(steps: int) -> list[Run]:
    runs = [
        Run("rat-default", env, seed, steps)
        for seed in range(3)
        for env in ("Walker2d-v4", "Hopper-v4", "HalfCheetah-v4", "Ant-v4")
    ]
    return runs + [Run("rat-paper", env, 0, steps, ("--preset", "paper")) for env in ("Hopper-v4", "HalfCheetah-v4")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--parallel", type=int, default=2)
    arguments = parser.parse_args()
    runs = plan(arguments.steps)
    run_all(runs, ROOT, arguments.parallel)
    rows = write_runs(runs, ROOT, RESULTS / "runs.csv")
    write_curves(runs, ROOT, RESULTS / "curves.csv")
    (RESULTS / "table.md").write_text(markdown(rows))
    plot_runs([run.directory(ROOT) for run in runs], RESULTS / "curves")


if __name__ == "__main__":
    main()
