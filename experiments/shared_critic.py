"""RAT with shared layers on Hopper and HalfCheetah: the paper's pseudo-advantage, and residuals with rows of their own.

    ratpg reproduce shared_critic [--parallel 2] [--seeds 0]

Under the preset ``paper`` and with the preset ``default``; the pseudo-advantage also with less weight on the critic's
loss. Trains what ``results/runs.csv`` lacks (``--redraw``: nothing), then writes ``results/shared_critic/``.
"""

from mujoco_ import STEPS
from run import Run
from trainings import run

TASKS = ("Hopper-v4", "HalfCheetah-v4")
LESS = ("--value-coefficient", "0.1")
BOUNDED = ("--minibatches", "2", "--critic-step-size", "0.1", "--max-step-norm", "0.5", "--value-coefficient", "0.1")
"""What the pseudo-advantage needs beside the preset ``default``, without which it diverges."""
VARIANTS = {
    "paper-pseudo": ("--preset", "paper"),
    "paper-pseudo-value-0.1": ("--preset", "paper", *LESS),
    "paper-residual": ("--preset", "paper", "--value-advantage", "residual"),
    "default-pseudo": ("--value-advantage", "pseudo", *BOUNDED),
    "default-residual": (),
}
RUNS = [
    Run(f"shared-{name}", env, seed, STEPS, ("--algo", "rat", "--shared", *flags))
    for seed in range(2)
    for name, flags in VARIANTS.items()
    for env in TASKS
]


if __name__ == "__main__":
    run(__doc__, "shared_critic", RUNS)
