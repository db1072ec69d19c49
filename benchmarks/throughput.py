"""Steps a second of whole training, in one run: against the bare simulator, and against the libraries in use.

    python benchmarks/throughput.py [--threads 2] [--repeats 7]

The first table is preset ``default`` against EnvPool stepped with random actions; the second is preset ``paper`` (32
environments x 256 steps, 4 epochs x 8 mini-batches, networks of 256 x 256) against Stable-Baselines3's PPO and
SB3-contrib's TRPO at the same sizes, with their environments stepped in one process or in subprocesses and one or all
threads for PyTorch, whichever is fastest. All that is in a row takes turns; rates are medians, ratios medians of the
ratios of one turn. What bounds them is what the simulator would give with the update's matrix products alone, and with
its tensor operations alone, all threads being busy all the time (`bound`).
"""

import argparse
import statistics
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, TypeVar

import torch

from bound import bound, operations_alone, products_alone
from ratpg.training.config import TrainConfig
from ratpg.training.presets import preset
from ratpg.training.trainer import Trainer
from report import Row, draw_bars, markdown, write
from simulator import bare_simulator
from timing import machine, rate, require_peers

ROLLOUTS = 4
"""In a turn: a critic's fit may go on while the next rollout is collected."""
PAPER_ROLLOUTS = 2
"""The same for preset ``paper``, whose rollouts are four times as long."""
TRPO = "SB3-contrib TRPO"
PEERS = {"SB3 PPO": "ppo", TRPO: "trpo"}

Name = TypeVar("Name", bound=Hashable)


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


def in_turns(tasks: dict[Name, Callable[[], int]], repeats: int) -> dict[Name, list[float]]:
    """Rates of each task over rounds in which each runs once, after one round to warm up."""
    for task in tasks.values():
        task()
    rates: dict[Name, list[float]] = {name: [] for name in tasks}
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
    ways = [(vector, torch_threads) for vector in VECTORS for torch_threads in dict.fromkeys((1, threads))]
    trials = in_turns({way: sb3_training("ppo", *way, config) for way in ways}, 2)
    fastest = max(ways, key=lambda way: statistics.median(trials[way]))
    tasks = {name: sb3_training(algo, *fastest, config) for name, algo in PEERS.items()}
    ours = {"RAT": config, "PPO": config_of("ppo", "paper", env, threads)}
    tasks |= {name: training(config, PAPER_ROLLOUTS) for name, config in ours.items()}
    tasks["simulator"] = bare_simulator(env, config.num_envs, config.num_steps, threads)
    bounds = {"products": products_alone, "operations": operations_alone}
    tasks |= {
        f"simulator + {what} of {name}": bound(ours[name], part) for name in ours for what, part in bounds.items()
    }
    rates = in_turns(tasks, repeats)
    of_rat = {name: rates[name] for name in rates if "RAT" in name}
    rows = rows_of(env, rates, "SB3 PPO") + rows_of(env, of_rat | {TRPO: rates[TRPO]}, TRPO)[:-1]
    return [row | {"SB3": f"{fastest[0]}, threads: {fastest[1]}"} for row in rows]


def draw_ratios(path: Path, rows: list[Row]) -> None:
    """Steps a second as multiples of the first of an environment's rows."""
    base = rows[0]["of"]
    groups: dict[str, dict[str, float]] = {}
    for row in rows:
        if row["of"] == base:
            groups.setdefault(str(row["environment"]), {})[str(row["what"])] = float(row["ratio"])
    draw_bars(path, groups, f"steps a second / {base}'s")


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
        torch.set_num_threads(arguments.threads)  # what was measured has left it as it liked; it is written down
        write(arguments.output, name, rows)
        draw_ratios(arguments.output / name, rows)


if __name__ == "__main__":
    main()
