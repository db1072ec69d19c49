"""What it costs to compare every step with autograd: a step with ``verify="always"`` over one with ``verify="first"``.

    python benchmarks/verification.py [--images]

The same mini-batches as `update_cost`: B = 1024 and two hidden layers of 256, or IMPALA on images. The two take turns
in one run. Writes ``results/update_cost/verification``, or ``verification_images``.
"""

import argparse
from pathlib import Path

import torch

from image_problem import ImageProblem
from ratpg import AdvantageTransform
from report import Row, markdown, write
from timing import interleaved, machine
from update_problem import DAMPING, SHAPES, Problem

RESULTS = Path("results/update_cost")


def measure(name: str, problems: tuple[Problem, Problem] | tuple[ImageProblem, ImageProblem], repeats: int) -> Row:
    """One row: of two equal problems the first is compared at every step."""
    problems[0].transform = AdvantageTransform(problems[0].actor, DAMPING, verify="always")
    always, first = interleaved([problem.rat for problem in problems], repeats)
    milliseconds = {"always (ms)": round(1e3 * always, 1), "first (ms)": round(1e3 * first, 1)}
    return {"shape": name, **milliseconds, "ratio": round(always / first, 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=31)
    parser.add_argument("--images", action="store_true", help="IMPALA on 256 images instead of perceptrons")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(machine())
    if arguments.images:
        rows = [measure("IMPALA", (ImageProblem(256), ImageProblem(256)), arguments.repeats)]
    else:
        rows = [measure(env, (Problem(env, 1024, 256), Problem(env, 1024, 256)), arguments.repeats) for env in SHAPES]
    print(markdown(rows))
    write(RESULTS, "verification_images" if arguments.images else "verification", rows)


if __name__ == "__main__":
    main()
