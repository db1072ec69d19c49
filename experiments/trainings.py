"""Experiments made of many trainings: which are run here, and what is written of those that are recorded."""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ratpg.training.plots import plot_curves
from records import curves_of, results_of, table_of
from report import RESULTS, SUFFIXES, at_least_one, write_csv, write_summary
from run import TRIED, Row, Run
from runner import run_all

Draw = Callable[[Sequence[Row]], Mapping[str, Any]]


def run(doc: str, name: str, runs: Sequence[Run], draw: Draw | None = None) -> None:
    """The command line of such an experiment, ``ratpg reproduce NAME``.

    Args:
        doc: what the experiment is, on its first line.
        name: of the experiment, and of its folder in ``results/``.
        runs: all trainings that it is made of.
        draw: draws the recorded rows, and returns what else the summary says; their learning curves unless given.
    """
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--parallel", type=at_least_one, default=2, help="single-threaded trainings at a time")
    parser.add_argument("--seeds", type=int, nargs="+", help="train these alone, to split the work over machines")
    parser.add_argument("--steps", type=at_least_one, help="train so long instead, to try it out")
    parser.add_argument("--device", default="cpu", help="of the networks, such as cuda")
    parser.add_argument("--redraw", action="store_true", help="train nothing, draw again what results/ holds")
    arguments = parser.parse_args()
    known = sorted({run.seed for run in runs})
    if unknown := [seed for seed in arguments.seeds or known if seed not in known]:
        sys.exit(f"no training here has the seed {unknown[0]}: choose among {', '.join(map(str, known))}")
    failed: list[str] = []
    if not arguments.redraw:
        chosen = [
            replace(run, device=arguments.device)
            for run in runs
            if arguments.seeds is None or run.seed in arguments.seeds
        ]
        if arguments.steps:
            tried = [replace(run, steps=arguments.steps, root=TRIED) for run in chosen]
            failed = run_all(tried, arguments.parallel, record=False)
            print(f"tried out: the runs are in {TRIED}, and nothing is recorded")
        else:
            failed = run_all(chosen, arguments.parallel)
    if not arguments.steps:
        write(name, runs, draw)
    if failed:
        sys.exit(f"these runs failed, see the .log beside each: {', '.join(failed)}")


def write(name: str, runs: Sequence[Run], draw: Draw | None = None) -> None:
    """``table.csv``, figure and summary of what is recorded of these runs; nothing where nothing is."""
    recorded = results_of(runs)
    print(f"{name}: {len(recorded)} of {len(runs)} trainings are recorded")
    if not recorded:
        return
    write_csv(RESULTS / name / "table.csv", table_of(recorded))
    figures: Mapping[str, Any] = {}
    if draw is not None:
        figures = draw(recorded)
    else:
        curves = curves_of(runs)
        if curves:
            plot_curves(curves, RESULTS / name / "curves", suffixes=SUFFIXES)
    write_summary(
        name,
        " ".join(sorted({row["seed"] for row in recorded})),
        {"trainings": len(runs), "recorded": len(recorded), "returns": table_of(recorded), **figures},
        # Of the trainings; what is drawn today is no part of where the figures come from.
        commits=" ".join(dict.fromkeys(commit for row in recorded for commit in row["commit"].split())),
        packages=" | ".join(dict.fromkeys(row["versions"] for row in recorded)),
    )
