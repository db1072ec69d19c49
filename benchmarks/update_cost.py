"""The cost of one step of RAT against other ways to a step, on the same mini-batch in the same run.

    python benchmarks/update_cost.py                 # B = 1024, width 256: the README's table, into results/update_cost
    python benchmarks/update_cost.py --sweep         # B in 256..4096 and widths 64, 256, 1024, with a figure
    python benchmarks/update_cost.py --algorithms    # a mini-batch's whole update with every algorithm; --device cuda
    python benchmarks/update_cost.py --images        # IMPALA on 512 images of 3 x 64 x 64, into results/update_cost

``materialised`` forms the scores and solves by LU, as the authors' code does; ``ppo`` is the actor's part of a PPO
mini-batch; ``cg`` takes ten Fisher-vector products. Times are medians of rounds in which every way runs once; memory is
what a step adds to the peak of a fresh process; the rate is that of the matrix products counted by hand, as a share
of what one large product reaches here.
"""

import argparse
import json
from pathlib import Path
from time import perf_counter

import matplotlib.pyplot as plt
import torch

import algorithm_cost
from image_problem import ImageProblem
from ratpg.natgrad.products import product
from report import Row, draw_bars, markdown, write
from timing import in_fresh_process, interleaved, machine, peak_memory_of
from update_problem import SHAPES, Problem

WAYS = {"rat": "RAT", "ppo": "PPO's actor step", "cg": "CG, 10 products", "materialised": "materialised + LU"}
RESULTS = Path("results/update_cost")
MEMORY_LIMIT = 1.5e9
"""Bytes of scores above which the materialised way is left out."""
IMAGES = "IMPALA"
"""The name of the problem of images, beside those of perceptrons."""


def measure(env: str, batch: int, width: int, repeats: int, threads: int) -> list[Row]:
    """One row a way."""
    peak_rate = matrix_product_rate()
    problem = Problem(env, batch, width)
    count = sum(parameter.numel() for parameter in problem.parameters.values())
    ways = [way for way in WAYS if way != "materialised" or 4 * batch * count < MEMORY_LIMIT]
    seconds = interleaved([getattr(problem, way) for way in ways], repeats)
    rows: list[Row] = []
    for way, time in zip(ways, seconds, strict=True):
        arguments = ["--memory", env, way, "--batch", str(batch), "--width", str(width), "--threads", str(threads)]
        memory = in_fresh_process(arguments)["bytes"]
        flops = problem.flops(way)
        rows.append(
            {
                "shape": env,
                "batch": batch,
                "width": width,
                "parameters": count,
                "way": way,
                "milliseconds": round(1e3 * time, 2),
                "over_ppo": round(time / seconds[1], 2),
                "over_rat": round(time / seconds[0], 2),
                "megabytes": round(memory / 1e6),
                "gigaflop": round(flops / 1e9, 2),
                "share_of_peak": round(flops / time / peak_rate, 2),
            }
        )
    return rows


def measure_images(batch: int, repeats: int, threads: int) -> list[Row]:
    """One row a way, for IMPALA on images.

    Memory is the peak over two steps in a fresh process, the first of which is compared with autograd as well; of the
    slow materialised way over one. ``scores`` are the bytes in which ``H`` is held: what the plan says of the
    factors, or the whole matrix.
    """
    problem = ImageProblem(batch)
    ppo, rat = interleaved([problem.ppo, problem.rat], repeats)
    plan = problem.transform.plan()
    print(plan, flush=True)
    whole = 4 * batch * sum(parameter.numel() for parameter in problem.parameters.values())
    rows: list[Row] = []
    ways = ("ppo", ppo, 0), ("rat", rat, plan.bytes), ("materialised", 0.0, whole)
    for way, seconds, scores in ways:
        arguments = ["--memory", IMAGES, way, "--batch", str(batch), "--threads", str(threads)]
        fresh = in_fresh_process(arguments)
        seconds, peak = seconds or fresh["seconds"], fresh["bytes"]
        rows.append(
            {
                "way": way,
                "batch": batch,
                "milliseconds": round(1e3 * seconds),
                "time_over_ppo": round(seconds / ppo, 2),
                "peak_megabytes": round(peak / 1e6),
                "peak_over_ppo": round(peak / 1e6 / float(rows[0]["peak_megabytes"]), 2) if rows else 1.0,
                "megabytes_of_scores": round(scores / 1e6),
            }
        )
    return rows


def matrix_product_rate() -> float:
    """Operations a second of one large float32 product."""
    size = 2048
    a, b = torch.randn(size, size), torch.randn(size, size)
    (seconds,) = interleaved([lambda: product(a, b)], 5)
    return 2 * size**3 / seconds


def table(rows: list[Row]) -> str:
    lines = ["| shape | B | width | way | ms | × PPO | × RAT | extra MB | Gflop | of peak |", "|---" * 10 + "|"]
    for row in rows:
        names = ("shape", "batch", "width", "way", "milliseconds", "over_ppo", "over_rat", "megabytes", "gigaflop")
        lines.append(f"| {' | '.join(str(row[name]) for name in names)} | {row['share_of_peak']:.0%} |")
    return "\n".join(lines) + "\n"


def summary(rows: list[Row]) -> list[Row]:
    """One row a shape: what the README shows."""
    table: list[Row] = []
    for shape in dict.fromkeys(row["shape"] for row in rows):
        of = {str(row["way"]): row for row in rows if row["shape"] == shape}
        line: Row = {"shape": shape}
        line |= {f"{WAYS[way]} (ms)": row["milliseconds"] for way, row in of.items()}
        line |= {f"{WAYS[way]} (MB)": of[way]["megabytes"] for way in ("rat", "materialised") if way in of}
        table.append(line)
    return table


def draw(rows: list[Row], output: Path) -> None:
    """How the cost grows with B at width 256, and with p at B = 1024."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    panels = (("batch", "mini-batch size B", "width", 256), ("parameters", "parameters p", "batch", 1024))
    for axis, (x, label, fixed, value) in zip(axes, panels, strict=True):
        for way, name in WAYS.items():
            points = sorted(
                (float(row[x]), float(row["milliseconds"]))
                for row in rows
                if row["way"] == way and row[fixed] == value and row["shape"] == "Humanoid"
            )
            axis.plot(*zip(*points, strict=True), marker="o", label=name)
        axis.set(xscale="log", yscale="log", xlabel=label, ylabel="milliseconds a step", title=f"{fixed} {value}")
        sizes = sorted({int(row[x]) for row in rows if row[fixed] == value and row["shape"] == "Humanoid"})
        axis.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.legend(frameon=False)
    figure.savefig(output.with_suffix(".png"), dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, help="512 with images, else 1024")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--sweep", action="store_true", help="all sizes, into results/update_cost/sizes")
    parser.add_argument("--algorithms", action="store_true", help="every algorithm, into results/update_cost")
    parser.add_argument("--device", default="cpu", help="with --algorithms: cuda, into algorithms_cuda")
    parser.add_argument("--images", action="store_true", help="IMPALA instead of perceptrons")
    parser.add_argument("--memory", nargs=2, metavar=("SHAPE", "WAY"), help="one way's peak memory, as JSON")
    arguments = parser.parse_args()
    if arguments.device != "cpu" and not arguments.algorithms:
        parser.error("--device is for --algorithms alone")
    if arguments.device != "cpu" and not torch.cuda.is_available():
        parser.error(f"--device {arguments.device}: there is no GPU")
    if arguments.repeats < 1:
        parser.error(f"--repeats must be at least 1, got {arguments.repeats}")
    torch.set_num_threads(arguments.threads)
    arguments.batch = arguments.batch or (512 if arguments.images else 1024)

    if arguments.memory:
        env, way = arguments.memory
        images = env == IMAGES
        problem = ImageProblem(arguments.batch) if images else Problem(env, arguments.batch, arguments.width)
        step = getattr(problem, way)
        torch.randn(256, 256) @ torch.randn(256, 256)  # the matrix library's own buffers
        start = perf_counter()
        repeats = 2 if images and way != "materialised" else 1
        peak = peak_memory_of(lambda: [step() for _ in range(repeats)])
        seconds = perf_counter() - start
        print(json.dumps({"bytes": peak, "seconds": seconds}))
        return

    if arguments.images:
        rows = measure_images(arguments.batch, arguments.repeats, arguments.threads)
        print(markdown(rows))
        write(RESULTS, "impala", rows)
        ratios = {"time": "time_over_ppo", "peak memory": "peak_over_ppo"}
        over = {str(row["way"]): {name: float(row[key]) for name, key in ratios.items()} for row in rows}
        draw_bars(RESULTS / "impala", over, "a step / PPO's", log=True)
        return

    if arguments.algorithms:
        device = arguments.device
        print(machine(device))
        compared = algorithm_cost.measure(arguments.repeats, device)
        print(markdown(compared))
        name = "algorithms" if device == "cpu" else f"algorithms_{device}"
        write(RESULTS, name, compared, device)
        each = {env: {str(row["algorithm"]): float(row[env]) for row in compared} for env in algorithm_cost.ENVS}
        draw_bars(RESULTS / name, each, "milliseconds a mini-batch")
        return

    print(machine())
    sizes = [(env, arguments.batch, arguments.width) for env in SHAPES]
    if arguments.sweep:
        sizes = [
            (env, batch, width)
            for env in ("Hopper", "Ant", "Humanoid")
            for width in (64, 256, 1024)
            for batch in (256, 512, 1024, 2048, 4096)
        ]
    rows: list[Row] = []
    for env, batch, width in sizes:
        measured = measure(env, batch, width, arguments.repeats, arguments.threads)
        print(table(measured) if not rows else "\n".join(table(measured).splitlines()[2:]), flush=True)
        rows += measured
    if arguments.sweep:
        write(RESULTS / "sizes", "sizes", rows)
        draw(rows, RESULTS / "sizes" / "growth")
    elif (arguments.batch, arguments.width) == (1024, 256):
        write(RESULTS, "shapes", rows)
        write(RESULTS, "table", summary(rows))
        groups: dict[str, dict[str, float]] = {}
        for row in rows:
            groups.setdefault(str(row["shape"]), {})[WAYS[str(row["way"])]] = float(row["milliseconds"])
        draw_bars(RESULTS / "shapes", groups, "milliseconds a step", log=True)


if __name__ == "__main__":
    main()
