"""Which Kaczmarz decay ζ is the default: ζ in {0, 0.9, 1} on Hopper and HalfCheetah, two seeds each.

    python experiments/kaczmarz_decay.py [--parallel 2]

Trains what ``results/runs.csv`` lacks (``--parallel 0``: nothing), then writes ``results/kaczmarz_decay/``.
ζ = 0 is the preset ``default`` itself, shared with ``mujoco.py``.
"""

import argparse
from pathlib import Path

from ratpg.training.plots import plot_curves
from runner import Run, curves_of, markdown, results_of, run_all

RESULTS = Path("results/kaczmarz_decay")
STEPS = 1_000_000
VARIANTS = {
    "rat-default": (),
    "rat-decay-0.9": ("--kaczmarz-decay", "0.9"),
    "rat-decay-1": ("--kaczmarz-decay", "1"),
}
RUNS = [
    Run(name, env, seed, STEPS, flags)
    for seed in range(2)
    for name, flags in VARIANTS.items()
    for env in ("Hopper-v4", "HalfCheetah-v4")
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parallel", type=int, default=2, help="single-threaded trainings at a time")
    arguments = parser.parse_args()
    if arguments.parallel:
        run_all(RUNS, arguments.parallel)
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "table.md").write_text(markdown(results_of(RUNS)))
    plot_curves(curves_of(RUNS), RESULTS / "curves")


if __name__ == "__main__":
    main()
