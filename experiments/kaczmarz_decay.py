"""Which Kaczmarz decay ζ is the default: ζ in {0, 0.9, 1} on Hopper and HalfCheetah, two seeds each.

    python experiments/kaczmarz_decay.py [--parallel 2] [--steps 1000000]

Trains what is missing in ``runs/evidence`` (ζ = 0 is the default preset, shared with ``mujoco.py``), then writes
``results/kaczmarz_decay/``.
"""

import argparse
from pathlib import Path

from runner import Run, markdown, run_all, write_curves, write_runs

ROOT, RESULTS = Path("runs/evidence"), Path("results/kaczmarz_decay")


def plan(steps: int) -> list[Run]:
    return [
        Run(name, env, seed, steps, arguments)
        for seed in range(2)
        for name, arguments in (
            ("rat-default", ()),
            ("rat-decay-0.9", ("--kaczmarz-decay", "0.9")),
            ("rat-decay-1", ("--kaczmarz-decay", "1")),
        )
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
