"""Which Kaczmarz decay ζ is the default: ζ in {0, 0.9, 1} on Hopper and HalfCheetah, two seeds each.

    ratpg reproduce kaczmarz_decay [--parallel 2] [--seeds 0]

Trains what ``results/runs.csv`` lacks (``--redraw``: nothing), then writes ``results/kaczmarz_decay/``.
ζ = 0 is the preset ``default`` itself, shared with ``mujoco_.py``.
"""

from runner import Run
from trainings import run

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


if __name__ == "__main__":
    run(__doc__, "kaczmarz_decay", RUNS)
