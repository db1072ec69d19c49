"""Collecting rollouts with a policy against the bare simulator with random actions.

    python benchmarks/rollout.py [--threads 2] [--repeats 7] [--envs Hopper-v4 ...] [--num-envs 8 32]

The two take turns with the same environment, number of environments and threads; the networks are the presets'. Writes
``results/rollout/``.
"""

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path

import torch

from ratpg.rl.envs import make_vec
from ratpg.rl.policy import ActorCritic
from ratpg.rl.rollout import collect
from ratpg.rl.spec import PolicySpec
from report import Row, draw_bars, markdown, write
from simulator import bare_simulator
from timing import machine, rate

TASKS = ("Swimmer", "Hopper", "HalfCheetah", "Walker2d", "Ant", "Humanoid", "HumanoidStandup")
NUM_STEPS = 256


def collecting(env: str, num_envs: int, num_steps: int, threads: int) -> Callable[[], int]:
    """A rollout at each call, which returns the steps in it."""
    envs = make_vec(env, num_envs, seed=0, backend="envpool", num_threads=threads)
    policy = ActorCritic(PolicySpec.from_spaces(envs.observation_space, envs.action_space))
    generator = torch.Generator().manual_seed(0)

    def roll() -> int:
        collect(policy, envs, num_steps, generator)
        return num_envs * num_steps

    return roll


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--envs", nargs="+", default=[f"{task}-v4" for task in TASKS])
    parser.add_argument("--num-envs", nargs="+", type=int, default=[8, 32])
    parser.add_argument("--output", type=Path, default=Path("results/rollout"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # as the trainer does while it collects
    print(machine())
    rows: list[Row] = []
    for env in arguments.envs:
        for num_envs in arguments.num_envs:
            tasks = [make(env, num_envs, NUM_STEPS, arguments.threads) for make in (bare_simulator, collecting)]
            for task in tasks:
                task()
            rates = [[rate(task) for task in tasks] for _ in range(arguments.repeats)]
            bare, collected = (statistics.median(column) for column in zip(*rates, strict=True))
            row: Row = {"environment": env, "environments": num_envs, "threads": arguments.threads}
            row |= {"simulator_alone": round(bare), "collecting": round(collected)}
            row |= {"ratio": round(statistics.median(c / b for b, c in rates), 2)}
            print(markdown([row]), flush=True)
            rows.append(row)
    torch.set_num_threads(arguments.threads)  # which is written down
    write(arguments.output, "steps_per_second", rows)
    groups: dict[str, dict[str, float]] = {}
    for row in rows:
        groups.setdefault(str(row["environment"]), {})[f"{row['environments']} environments"] = float(row["ratio"])
    draw_bars(arguments.output / "ratios", groups, "steps a second / the bare simulator's")


if __name__ == "__main__":
    main()
