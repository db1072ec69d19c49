"""Returns on eight Procgen games, the paper's as a third party matched them: RAT and PPO, two seeds.

    ratpg reproduce procgen [--parallel 2] [--seeds 0]

Easy levels, ten of them. Trains what ``results/runs.csv`` lacks (``--redraw``: nothing), then writes
``results/procgen/``. A million steps each here and one pass over each rollout, for both algorithms, where that protocol
has more steps and four passes: an image network takes hours on a few cores.
"""

from run import Run
from trainings import run

STEPS = 1_000_000
GAMES = ("Bigfish", "Starpilot", "Bossfight", "Caveflyer", "Coinrun", "Jumper", "Maze", "Miner")
RUNS = [
    Run(
        f"{algo}-procgen-1-epoch",
        f"{game}Easy-v0",
        seed,
        STEPS,
        ("--algo", algo, "--preset", "procgen", "--epochs", "1"),
    )
    for game in GAMES
    for seed in range(2)
    for algo in ("rat", "ppo")
]


if __name__ == "__main__":
    run(__doc__, "procgen", RUNS)
