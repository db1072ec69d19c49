"""Returns on MuJoCo: every algorithm's preset ``default`` over three seeds, and ``paper`` over two.

    ratpg reproduce mujoco [--parallel 2] [--seeds 0]

Trains what ``results/runs.csv`` lacks (``--redraw``: nothing), then writes ``results/mujoco/``.
"""

from runner import Run
from trainings import run

STEPS = 1_000_000
TASKS = ("Hopper-v4", "HalfCheetah-v4", "Walker2d-v4", "Ant-v4", "Swimmer-v4")
DEFAULT = {
    "rat-default": (),
    "ppo-default": ("--algo", "ppo"),
    "trpo-default": ("--algo", "trpo"),
    "acktr-default": ("--algo", "acktr"),
    "diag-default": ("--algo", "diag"),
    "rat-gauss-newton": ("--critic", "gauss-newton"),
}
PAPER = {f"{algo}-paper": ("--algo", algo, "--preset", "paper") for algo in ("rat", "ppo", "acktr", "diag")}
RUNS = [Run(name, env, seed, STEPS, flags) for seed in range(3) for name, flags in DEFAULT.items() for env in TASKS]
RUNS += [Run(name, env, seed, STEPS, flags) for seed in range(2) for name, flags in PAPER.items() for env in TASKS[:2]]


if __name__ == "__main__":
    run(__doc__, "mujoco", RUNS)
