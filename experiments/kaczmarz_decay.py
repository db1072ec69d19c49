"""Which Kaczmarz decay ζ is the default: ζ in {0, 0.9, 1} on Hopper and HalfCheetah, two seeds each.

    python experiments/kaczmarz_decay.py [--parallel 2] [--steps 1000000]

Trains what is missing in ``runs/kaczmarz_decay``, then writes ``results/kaczmarz_decay/``.
"""

import argparse
from pathlib import Path

from runner import Run, markdown, run_all, write_curves, write_runs

ROOT, RESULTS = Path("runs/kaczmarz_decay"), Path("results/kaczmarz_decay")


def plan(steps: int) -> list[Run]:
    return [
        Run(f"decay-{decay}", env, seed, steps, ("--kaczmarz-decay", decay))
        for seed in range(2)
        for decay in ("0.9", "1", "0")
        for env in ("Hopper-v4", "HalfCheetah-v4")
    ]


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


if __name__ == "__main__":
    main()
