"""Returns on one Atari game with the preset ``atari``: RAT and PPO, one seed.

    ratpg reproduce atari [--parallel 2]

KungFuMaster, 200,000 steps of four frames each. Trains what ``results/runs.csv`` lacks (``--redraw``: nothing), then
writes ``results/atari/``.
"""

from run import Run
from trainings import run

STEPS = 200_000
RUNS = [
    Run(f"{algo}-atari", "KungFuMaster-v5", 0, STEPS, ("--algo", algo, "--preset", "atari")) for algo in ("rat", "ppo")
]


if __name__ == "__main__":
    run(__doc__, "atari", RUNS)
