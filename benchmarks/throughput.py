"""Steps a second of whole training against the bare simulator with random actions, in one run.

    python benchmarks/throughput.py [--threads 2] [--repeats 5]

Same environment, number of environments and threads; preset ``default``.
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

from ratpg.training.config import TrainConfig
from ratpg.training.presets import preset
from ratpg.training.trainer import Trainer
from simulator import bare_simulator
from timing import machine, rate


def training(env: str, threads: int, directory: Path) -> Callable[[], int]:
    """One rollout and update after another; each call returns the environment steps it took."""
    config = TrainConfig(env=env, threads=threads, run_dir=directory, **preset("rat", "default"))
    trainer = Trainer(config)

    def iterate() -> int:
        trainer.iterate()
        return config.num_envs * config.num_steps

    return iterate


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
            defaults = TrainConfig(env=env, **preset("rat", "default"))
            bare = bare_simulator(env, defaults.num_envs, defaults.num_steps, arguments.threads)
            tasks = bare, training(env, arguments.threads, Path(directory))
            for task in tasks:
                task()
            rates = [[rate(task) for task in tasks] for _ in range(arguments.repeats)]
        alone, trained = (statistics.median(column) for column in zip(*rates, strict=True))
        ratio = statistics.median(trained / bare for bare, trained in rates)
        print(f"| {env} | {alone:.0f}/s | {trained:.0f}/s | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
