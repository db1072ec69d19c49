"""Steps a second of whole training, in one run: against the bare simulator, and against the libraries in use.

    python benchmarks/throughput.py [--threads 2] [--repeats 7]

The first table is preset ``default`` against EnvPool stepped with random actions; the second is preset ``paper`` (32
environments x 256 steps, 4 epochs x 8 mini-batches, networks of 256 x 256) against Stable-Baselines3's PPO and
SB3-contrib's TRPO at the same sizes, with their environments stepped in one process or in subprocesses, whichever is
faster. All that is in a row takes turns; rates are medians, ratios medians of the ratios of one turn. Two bounds are
what the simulator would give with the update's matrix products alone, and with its tensor operations alone (`bound`).
"""

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bound import one_after_the_other, operations_alone, products_alone
from ratpg.training.config import TrainConfig
from ratpg.training.presets import preset
from ratpg.training.trainer import Trainer
from report import Row, markdown, write
from simulator import bare_simulator
from timing import machine, rate, require_peers

ROLLOUTS = 4
"""In a turn: a critic's fit may go on while the next rollout is collected."""
PAPER_ROLLOUTS = 2
"""The same for preset ``paper``, whose rollouts are four times as long."""
PEERS = {"SB3 PPO": "ppo", "SB3-contrib TRPO": "trpo"}


def config_of(algo: str, name: str, env: str, threads: int) -> TrainConfig[Any]:
    return TrainConfig(threads=threads, **preset(algo, name, env))


def training(config: TrainConfig[Any], rollouts: int) -> Callable[[], int]:
    """A few rollouts and updates at each call, with nothing left running; it returns the environment steps."""
    trainer = Trainer(config)

    def iterate() -> int:
        for _ in range(rollouts):
            trainer.iterate()
        trainer.finish()
        return rollouts * config.num_envs * config.num_steps

    return iterate


def in_turns(tasks: dict[str, Callable[[], int]], repeats: int) -> dict[str, list[float]]:
    """Rates of each task over rounds in which each runs once, after one round to warm up."""
    for task in tasks.values():
        task()
    rates: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(repeats):
        for name, task in tasks.items():
            rates[name].append(rate(task))
    return rates


def rows_of(env: str, rates: dict[str, list[float]], base: str) -> list[Row]:
    return [
        {
            "environment": env,
            "what": name,
            "steps_per_second": round(statistics.median(values)),
            "ratio": round(statistics.median(a / b for a, b in zip(values, rates[base], strict=True)), 2),
            "of": base,
        }
        for name, values in rates.items()
    ]


def against_simulator(env: str, threads: int, repeats: int) -> list[Row]:
    config = config_of("rat", "default", env, threads)
    bare = bare_simulator(env, config.num_envs, ROLLOUTS * config.num_steps, threads)
    return rows_of(env, in_turns({"simulator": bare, "RAT": training(config, ROLLOUTS)}, repeats), "simulator")


def against_peers(env: str, threads: int, repeats: int) -> list[Row]:
    from peers import VECTORS, sb3_training  # which the extra ``bench`` installs

    config = config_of("rat", "paper", env, threads)
    trials = {vector: sb3_training("ppo", vector, config) for vector in VECTORS}
    faster = max(trials, key=lambda vector: statistics.median(in_turns({vector: trials[vector]}, 2)[vector]))
    tasks = {name: sb3_training(algo, faster, config) for name, algo in PEERS.items()}
    ours = {"RAT": config, "PPO": config_of("ppo", "paper", env, threads)}
    tasks |= {name: training(config, PAPER_ROLLOUTS) for name, config in ours.items()}
    tasks["simulator"] = bare_simulator(env, config.num_envs, config.num_steps, threads)
    bounds = {"products": products_alone, "operations": operations_alone}
    parts = {f"simulator, {what} of {name}": bounds[what](config) for name, config in ours.items() for what in bounds}
    rates = in_turns(tasks | parts, repeats)
    rates |= {name: one_after_the_other(rates["simulator"], rates[name]) for name in parts}
    rows = rows_of(env, rates, "SB3 PPO")
    return [row | {"environments of SB3": faster} for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--envs", nargs="+", default=["Hopper-v4", "HalfCheetah-v4", "Ant-v4", "Humanoid-v4"])
    parser.add_argument("--output", type=Path, default=Path("results/throughput"))
    arguments = parser.parse_args()
    require_peers()
    print(machine())
    for name, measure in {"simulator": against_simulator, "peers": against_peers}.items():
        rows: list[Row] = []
        for env in arguments.envs:
            measured = measure(env, arguments.threads, arguments.repeats)
            print(markdown(measured), flush=True)
            rows += measured
        write(arguments.output, name, rows)


if __name__ == "__main__":
    main()
