"""Seconds of training until a return is reached: RAT's preset ``default`` and Stable-Baselines3's PPO, tuned.

    python benchmarks/time_to_return.py [--parallel 2] [--limit 5.5]

PPO has RL Baselines3 Zoo's settings for each task (hyperparams/ppo.yml at 00128b5: normalised observations and
rewards, one environment). Every run has one thread, and ``--parallel`` of them go at a time, RAT's before PPO's. The
return is the mean of the last 100 training episodes; time counts from when the simulator is made. PPO's runs are given
up after ``--limit`` times the seconds that RAT took at its median on the same task, and all after a million steps; a
run that does not get there counts as later than all that do, and a median of such is marked ``>``. The seeds are those
of the table of returns, with some of which the default was chosen.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from report import Row, draw_bars, markdown, write
from timing import machine, require_peers

TARGETS = {"Hopper-v4": 2500.0, "HalfCheetah-v4": 3000.0, "Walker2d-v4": 2000.0}
STEPS = 1_000_000
RELU = {"log_std_init": -2, "ortho_init": False, "activation_fn": torch.nn.ReLU, "net_arch": [256, 256]}
ZOO: dict[str, dict[str, Any]] = {
    "Hopper-v4": {
        "batch_size": 32,
        "n_steps": 512,
        "gamma": 0.999,
        "learning_rate": 9.80828e-05,
        "ent_coef": 0.00229519,
        "clip_range": 0.2,
        "n_epochs": 5,
        "gae_lambda": 0.99,
        "max_grad_norm": 0.7,
        "vf_coef": 0.835671,
        "policy_kwargs": RELU,
    },
    "HalfCheetah-v4": {
        "batch_size": 64,
        "n_steps": 512,
        "gamma": 0.98,
        "learning_rate": 2.0633e-05,
        "ent_coef": 0.000401762,
        "clip_range": 0.1,
        "n_epochs": 20,
        "gae_lambda": 0.92,
        "max_grad_norm": 0.8,
        "vf_coef": 0.58096,
        "policy_kwargs": RELU,
    },
    "Walker2d-v4": {
        "batch_size": 32,
        "n_steps": 512,
        "gamma": 0.99,
        "learning_rate": 5.05041e-05,
        "ent_coef": 0.000585045,
        "clip_range": 0.1,
        "n_epochs": 20,
        "gae_lambda": 0.95,
        "max_grad_norm": 1.0,
        "vf_coef": 0.871923,
    },
}


def train_rat(env: str, seed: int, limit: float) -> tuple[float, int, bool]:
    """Seconds, steps, and whether the target was reached."""
    from ratpg.training.config import TrainConfig
    from ratpg.training.presets import preset
    from ratpg.training.trainer import Trainer

    target, start = TARGETS[env], time.perf_counter()
    with tempfile.TemporaryDirectory() as directory:
        run = {"seed": seed, "threads": 1, "total_timesteps": STEPS, "run_dir": Path(directory)}
        config = TrainConfig(**preset("rat", "default", env, total_timesteps=STEPS), **run)
        trainer = Trainer.start(config)

        def should_stop() -> bool:
            return trainer.episodes.return_mean() >= target or time.perf_counter() - start > limit

        trainer.run(should_stop=should_stop)
    return time.perf_counter() - start, trainer.timesteps, trainer.episodes.return_mean() >= target


def train_sb3(env: str, seed: int, limit: float) -> tuple[float, int, bool]:
    """Seconds, steps, and whether the target was reached."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    target, start = TARGETS[env], time.perf_counter()

    class UntilReached(BaseCallback):
        """Asked at every episode's end, where our trainer asks at every rollout's."""

        reached = False

        def _on_step(self) -> bool:
            if self.locals["dones"].any():
                episodes = self.model.ep_info_buffer  # still without the episode that ends here
                self.reached = sum(episode["r"] for episode in episodes) >= target * max(len(episodes), 1)
            return not self.reached and time.perf_counter() - start <= limit

    envs = VecNormalize(make_vec_env(env, 1, seed=seed), gamma=ZOO[env]["gamma"])
    until = UntilReached()
    model = PPO("MlpPolicy", envs, seed=seed, device="cpu", **ZOO[env])
    model.learn(STEPS, callback=until)
    return time.perf_counter() - start, model.num_timesteps, until.reached


WAYS = {"RAT": train_rat, "SB3 PPO": train_sb3}


UNDER_WAY: list["subprocess.Popen[str]"] = []
STOPPING = threading.Event()


def run_apart(way: str, env: str, seed: int, limit: float) -> Row:
    """One training in a process of its own."""
    arguments = [sys.executable, sys.argv[0], "--one", way, env, str(seed), str(limit)]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    UNDER_WAY.append(process)
    if STOPPING.is_set():
        process.terminate()
    output, _ = process.communicate()
    if process.returncode:
        raise ValueError(f"{way} on {env}, seed {seed}, ended with exit code {process.returncode}")
    seconds, steps, reached = json.loads(output.splitlines()[-1])
    row: Row = {"environment": env, "target": TARGETS[env], "what": way, "seed": seed, "steps": steps}
    row |= {"seconds": round(seconds, 1), "reached": "yes" if reached else "no"}
    print(row, flush=True)
    return row


def median_run(rows: list[Row], way: str, env: str) -> Row:
    """Those that did not get there count as later than all that did."""
    runs = [row for row in rows if row["environment"] == env and row["what"] == way]
    return sorted(runs, key=lambda row: (row["reached"] == "no", row["seconds"]))[len(runs) // 2]


def summary(rows: list[Row]) -> list[Row]:
    """Median seconds of both, and their ratio, which is a lower bound where PPO did not get there."""
    table: list[Row] = []
    for env, target in TARGETS.items():
        rat, ppo = (median_run(rows, way, env) for way in WAYS)
        ratio = float(ppo["seconds"]) / float(rat["seconds"])
        line: Row = {"environment": env, "return": target}
        line |= {f"{run['what']} (s)": f"{_late(run)}{float(run['seconds']):.0f}" for run in (rat, ppo)}
        table.append(line | {"ratio": "–" if _late(rat) else f"{_late(ppo)}{ratio:.1f}"})
    return table


def _late(run: Row) -> str:
    return "" if run["reached"] == "yes" else ">"


def draw(rows: list[Row], path: Path) -> None:
    groups = {env: {way: float(median_run(rows, way, env)["seconds"]) for way in WAYS} for env in TARGETS}
    draw_bars(path, groups, "seconds to the return, or until given up")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parallel", type=int, default=2, help="single-threaded trainings at a time")
    parser.add_argument("--limit", type=float, default=5.5, help="times RAT's seconds after which PPO is given up")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("results/time_to_return"))
    parser.add_argument("--one", nargs=4, metavar=("WHAT", "ENV", "SEED", "SECONDS"), help="one, as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.one:
        way, env, seed, limit = arguments.one
        print(json.dumps(WAYS[way](env, int(seed), float(limit))))
        return
    require_peers()
    tasks = [(env, seed) for seed in range(arguments.seeds) for env in TARGETS]
    pool = ThreadPoolExecutor(arguments.parallel)
    try:
        rows = list(pool.map(lambda task: run_apart("RAT", *task, limit=math.inf), tasks))
        limits = {env: arguments.limit * float(median_run(rows, "RAT", env)["seconds"]) for env in TARGETS}
        rows += pool.map(lambda task: run_apart("SB3 PPO", *task, limit=limits[task[0]]), tasks)
    finally:
        STOPPING.set()
        pool.shutdown(wait=False, cancel_futures=True)
        for process in UNDER_WAY:
            process.terminate()
    print(machine())
    print(markdown(summary(rows)))
    write(arguments.output, "seconds", rows)
    write(arguments.output, "summary", summary(rows))
    draw(rows, arguments.output / "seconds")


if __name__ == "__main__":
    main()
