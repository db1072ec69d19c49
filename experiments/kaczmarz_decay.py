"""Which Kaczmarz decay ζ is the default: ζ in {0, 0.9, 1} on Hopper and HalfCheetah, three seeds each.

    ratpg reproduce kaczmarz_decay [--parallel 2] [--seeds 0]

Trains what ``results/runs.csv`` lacks (``--redraw``: nothing), then writes ``results/kaczmarz_decay/``.
ζ = 0 is the preset ``default`` as it was when ζ was chosen: without staggered episodes, with a third of the entropy's
weight, and on HalfCheetah with other rollouts.
"""

from run import Run
from trainings import run

STEPS = 1_000_000
THEN = ("--no-stagger", "--entropy-coefficient", "0.01")
VARIANTS = {
    "rat-decay-0": (),
    "rat-decay-0.9": ("--kaczmarz-decay", "0.9"),
    "rat-decay-1": ("--kaczmarz-decay", "1"),
}
ENVS = {"Hopper-v4": (), "HalfCheetah-v4": ("--num-envs", "8", "--num-steps", "256")}
RUNS = [
    Run(name, env, seed, STEPS, (*THEN, *flags, *sizes))
    for seed in range(3)
    for name, flags in VARIANTS.items()
    for env, sizes in ENVS.items()
]


if __name__ == "__main__":
    run(__doc__, "kaczmarz_decay", RUNS)
