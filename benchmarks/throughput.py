"""Steps a second of whole training against the bare simulator with random actions, in one run.

    python benchmarks/throughput.py [--threads 2] [--repeats 5]

Same environment, number of environments and threads; preset ``default``.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ratpg.rl.envs import make_vec
from ratpg.training.config import TrainConfig
from ratpg.training.presets import preset
from ratpg.training.trainer import Trainer
from timing import machine

BARE_STEPS = 40


def training(env: str, threads: int, directory: Path) -> Callable[[], int]:
    """One rollout and update after another; each call returns the environment steps it took."""
    config = TrainConfig(env=env, threads=threads, run_dir=directory, **preset("rat", "default"))
    trainer = Trainer(config)

    def iterate() -> int:
        trainer.iterate()
        return config.num_envs * config.num_steps

    return iterate


def simulator(env: str, threads: int) -> Callable[[], int]:
    """A rollout's worth of steps with random actions drawn beforehand."""
    defaults = TrainConfig(env=env, **preset("rat", "default"))
    envs = make_vec(env, defaults.num_envs, seed=0, backend="envpool", num_threads=threads)
    space = envs.action_space
    rng = np.random.default_rng(0)
    actions = rng.uniform(space.low, space.high, (BARE_STEPS, defaults.num_envs, *space.shape))
    pool = envs._pool

    def iterate() -> int:
        for step in range(defaults.num_steps):
            pool.step(actions[step % BARE_STEPS])
        return defaults.num_envs * defaults.num_steps

    return iterate


def rate(task: Callable[[], int]) -> float:
    start = time.perf_counter()
    return task() / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--envs", nargs="+", default=["Hopper-v4", "HalfCheetah-v4", "Ant-v4", "Humanoid-v4"])
    arguments = parser.parse_args()
    print(machine())
    print("| environment | simulator alone | training | ratio |")
    print("|---|---|---|---|")
    for env in arguments.envs:
        with tempfile.TemporaryDirectory() as directory:
            tasks = simulator(env, arguments.threads), training(env, arguments.threads, Path(directory))
            for task in tasks:
                task()
            rates = [[rate(task) for task in tasks] for _ in range(arguments.repeats)]
        bare, trained = (statistics.median(column) for column in zip(*rates, strict=True))
        ratio = statistics.median(trained / bare for bare, trained in rates)
        print(f"| {env} | {bare:.0f}/s | {trained:.0f}/s | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
