"""A suite of MuJoCo tasks: our returns beside the paper's, their aggregate, and learning curves."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from aggregate import interquartile_mean, interval
from published import AUTHORS_HUMANOID, POSTER, TASKS, mean_of, task_of
from ratpg.training.plots import plot_curves
from records import Curves, curves_of, table_of
from report import RESULTS, SUFFIXES, save, write_csv
from run import Row, Run

HUMANOID = "Humanoid-v4"
EARLY = 300_000
"""Steps after which it is compared how fast algorithms learn."""
COMPARED = ("Hopper", "HalfCheetah", "Walker2d", "Ant", "Swimmer")
"""Tasks of the aggregate: those without the Humanoids, which few runs have."""


def draw(name: str, runs: Sequence[Run], rows: Sequence[Row]) -> dict[str, Any]:
    """Writes all that is made of a suite's recorded rows, beside its ``table.csv``; returns it for the summary."""
    folder = RESULTS / name
    write_csv(folder / "beside_paper.csv", beside_paper(rows))
    aggregates = aggregated(rows)
    if aggregates:
        write_csv(folder / "aggregate.csv", aggregates)
    curves = curves_of(runs)
    learnt = early(curves)
    if learnt:
        write_csv(folder / "early.csv", learnt)
        plot_curves(curves, folder / "curves", suffixes=SUFFIXES)
    return {f"returns_at_{EARLY}_steps": learnt, "interquartile_means": aggregates}


def draw_humanoid(name: str, runs: Sequence[Run]) -> None:
    """Learning curves on Humanoid-v4 with points of the authors' own, where any are recorded."""
    curves = curves_of([run for run in runs if run.env == HUMANOID])
    if not curves:
        return
    figure, axis = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for label, seeds in curves[HUMANOID].items():
        for steps, returns in seeds:
            axis.plot(steps, returns, label=label)
    for label, points in AUTHORS_HUMANOID.items():
        axis.plot(*zip(*points, strict=True), "o--", label=label)
    axis.set(title=HUMANOID, xlabel="environment steps", ylabel="return", xscale="log")
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    save(figure, RESULTS / name / "humanoid.png")


def early(curves: Curves) -> list[Row]:
    """Mean ± standard error of the return at `EARLY` steps, and how many seeds, of each configuration."""
    rows = []
    for env, by_name in curves.items():
        for name, seeds in by_name.items():
            for steps, returns in seeds:
                at = float(returns[np.abs(steps - EARLY).argmin()])
                rows.append({"name": name, "env": env, "return": str(at)})
    return table_of(rows)


def beside_paper(rows: Sequence[Row]) -> list[Row]:
    """One row a configuration and one an algorithm of the paper; environments across, in the paper's order of tasks.

    The paper's Ant has the 105 dimensions of v5; under v4 its place is left empty.
    """
    recorded = {row["env"] for row in rows}
    envs = sorted(recorded, key=lambda env: (TASKS.index(task_of(env)), env))
    ours = [{"run": row["run"]} | {env: row.get(env, "–") for env in envs} for row in table_of(rows)]
    for name, cells in POSTER.items():
        places = {env: "–" if env == "Ant-v4" else cells[TASKS.index(task_of(env))] for env in envs}
        ours.append({"run": f"paper's {name}, 10M"} | places)
    return ours


def aggregated(rows: Sequence[Row]) -> list[Row]:
    """Interquartile mean and interval of each configuration that has all of `COMPARED`, in units of the paper's PPO.

    Of every task as many runs count, the first ones, as there are of that with the fewest.

    Raises:
        ValueError: where a configuration has two versions of one task, whose returns cannot be compared.
    """
    scores: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if task_of(row["env"]) in COMPARED:
            scores[row["name"]][row["env"]].append(float(row["return"]) / mean_of("PPO", task_of(row["env"])))
    table: list[Row] = []
    for name, by_env in scores.items():
        if len({task_of(env) for env in by_env}) < len(by_env):
            raise ValueError(f"{name} has two versions of one task: {', '.join(sorted(by_env))}")
        if len(by_env) == len(COMPARED):
            fewest = min(len(runs) for runs in by_env.values())
            by_env = {env: runs[:fewest] for env, runs in by_env.items()}
            low, high = interval(by_env)
            table.append(
                {
                    "run": name,
                    "interquartile mean": f"{interquartile_mean(by_env):.2f}",
                    "95 % interval": f"{low:.2f} to {high:.2f}" if fewest > 1 else "–",
                    "runs": str(sum(len(runs) for runs in by_env.values())),
                }
            )
    return table
