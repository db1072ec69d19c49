"""Theorems 1 and 2 of the paper on the scores of a real policy, where every term of them is known exactly.

    ratpg reproduce kaczmarz

A policy of 198 parameters (17 → 6 → 6 → 6, tanh) is trained on HalfCheetah-v4 for 120,000 steps; ``H`` are its scores
on one more rollout, in float64 and of full column rank, ``g*`` the least-squares fit of its advantages, and the noise ε
as large as what that fit leaves over. With exact targets ``y = Hg*``, and with noisy ones ``y = Hg* + ε``, the iterates
of block Kaczmarz from ``g_0 = 0`` have to obey

    E‖g_j − g*‖² ≤ (1 − μ)^j ‖g_0 − g*‖² + η²/μ,    μ = λ_min(E[P_τ]),    η² = E‖N_τ ε_τ‖²    (0 where exact)

for every j: 256 sequences of 1,000 blocks, for several block sizes and dampings. The first follows from
``(I − P)² ⪯ I − P``. So does the second if ``ε_τ`` is drawn anew at each step; with noise that belongs to the row, as
in passes over one rollout, ``g_{j−1}`` knows of it and the cross term need not vanish. Both kinds are measured. Beyond
the paper: the decay ζ, and blocks drawn by leverage. Damping is the library's: λ of a block is ``B`` times as much.
Four minutes on two cores.
"""

import json
import math
import statistics
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from block_kaczmarz import NOISES, Blocks, bound, draw_rows, leverage, sequences
from ratpg.cli.arguments import parse_train
from ratpg.natgrad.dense import score_matrix
from report import Row, read_csv, run, save, write_csv, write_summary
from run import settings_of
from snapshots import snapshots

RESULTS = Path("results/kaczmarz")
TRAINED = 120_000
BLOCK_SIZES, DAMPINGS = (32, 128, 512), (0.001, 0.01, 0.1)
DECAYS = (0.0, 0.5, 0.9, 0.99, 1.0)
COLLECTION, SEQUENCES, STEPS = 100, 256, 1000
WORKERS = 2
"""Cases at a time, on a thread each."""
DRAWS = 6
"""Collections of blocks of each kind, of which μ is compared: it differs between them."""
TRAINING = "--env HalfCheetah-v4 --hidden 6 6 --activation tanh --threads 1"
FLOORS_AT, FLOOR_DAMPINGS = 128, (-4.0, 3.0)
"""Block size, and powers of ten of the damping, at which the floors are compared."""
COLOURS = dict(zip(map(str, DAMPINGS), ("tab:blue", "tab:orange", "tab:green"), strict=True))


def problem() -> tuple[Tensor, Tensor, float]:
    """``H [n, p]``, ``g* [p]`` and the noise's standard deviation, of a policy trained here."""
    (batch,) = snapshots(parse_train(TRAINING.split()), [TRAINED])
    actor = batch.policy.actor.double()
    scores = score_matrix(actor(batch.observations.double()).log_prob(batch.actions.double()), [*actor.parameters()])
    advantages = batch.advantages.double()
    solution = torch.linalg.lstsq(scores, advantages[:, None]).solution[:, 0]
    return scores, solution, float((advantages - scores @ solution).std())


def measured_rate(errors: Tensor) -> float:
    """The factor that a step leaves of ``E‖g_j − g*‖²``, over the later half of those above rounding."""
    last = int((errors > 1e-20 * errors[0]).nonzero().max())
    first = last // 2
    return float(errors[last] / errors[first]) ** (1 / (last - first))


def spread(values: list[float]) -> str:
    """Mean ± standard deviation."""
    deviation = statistics.stdev(values)
    digits = 1 - math.floor(math.log10(deviation))
    return f"{statistics.mean(values):.{digits}f} ± {deviation:.{digits}f}"


def spreads(scores: Tensor, samplings: dict[str, Tensor], generator: torch.Generator) -> list[dict[str, object]]:
    """A row a block size: μ of each way to draw blocks, over several collections."""
    rows = []
    for size in BLOCK_SIZES:
        row: dict[str, object] = {"B": size}
        for name, weights in samplings.items():
            collections = (draw_rows(COLLECTION, size, weights, generator) for _ in range(DRAWS))
            row[f"μ,_{name}"] = spread([Blocks.of(scores, drawn, size * DAMPINGS[-1]).rate for drawn in collections])
        rows.append(row)
    return rows


def measure() -> None:
    """Writes rates.csv, errors.csv, decays.csv, leverage.csv, floors.csv and the summary."""
    torch.set_num_threads(1)
    scores, solution, deviation = problem()
    n, p = scores.shape
    assert n >= 2000 and p <= 200 and torch.linalg.matrix_rank(scores) == p
    generator = torch.Generator().manual_seed(0)
    uniform = torch.ones(n, dtype=scores.dtype)
    rates: list[dict[str, object]] = []
    curves: list[dict[str, object]] = []
    holds = dict.fromkeys(NOISES, True)
    kept = sorted({round(10 ** (i / 16)) for i in range(49)} | {0})  # of 1,000 errors
    ways = (("uniform", uniform, DAMPINGS), ("leverage", leverage(scores), DAMPINGS[-1:]))
    cases = [
        (sampling, size, damping, rows)
        for sampling, weights, dampings in ways
        for size in BLOCK_SIZES
        for rows in [draw_rows(COLLECTION, size, weights, generator)]
        for damping in dampings
    ]

    def measured(
        sampling: str, size: int, damping: float, rows: Tensor
    ) -> tuple[dict[str, object], list[dict[str, object]], dict[str, bool]]:
        blocks = Blocks.of(scores, rows, size * damping)
        errors = sequences(blocks, solution, deviation, STEPS, SEQUENCES)
        bounds = {kind: bound(blocks, solution, STEPS, 0 if kind == "exact" else deviation) for kind in NOISES}
        held = {kind: errors[kind].within(bounds[kind]) for kind in NOISES}
        case = {"blocks": sampling, "B": size, "damping": damping}
        row = {
            **case,
            "1_−_μ": 1 - blocks.rate,
            "measured_rate": measured_rate(errors["exact"].mean),
            "floor_η²/μ": float(f"{blocks.noise(deviation) / blocks.rate:.3g}"),
            **{f"{kind}_noise": float(f"{float(errors[kind].mean[-1]):.3g}") for kind in NOISES[1:]},
            **{f"{kind}_bound": "holds" if held[kind] else "broken" for kind in NOISES},
        }
        curve = [
            {
                **case,
                "targets": kind,
                "j": j,
                "error": float(errors[kind].mean[j]),
                "standard_error": float(errors[kind].standard_error[j]),
                "bound": float(bounds[kind][j]),
            }
            for kind in NOISES
            for j in kept
        ]
        print(row, flush=True)
        return row, curve, held

    with ThreadPoolExecutor(WORKERS) as pool:
        for row, curve, held in pool.map(lambda case: measured(*case), cases):
            rates.append(row)
            curves += curve
            holds = {kind: holds[kind] and held[kind] for kind in NOISES}
    write_csv(RESULTS / "rates.csv", rates)
    write_csv(RESULTS / "errors.csv", curves)

    blocks = Blocks.of(scores, draw_rows(COLLECTION, FLOORS_AT, uniform, generator), FLOORS_AT * DAMPINGS[-1])
    with ThreadPoolExecutor(WORKERS) as pool:
        by_decay = list(pool.map(lambda decay: sequences(blocks, solution, deviation, STEPS, SEQUENCES, decay), DECAYS))
    decays = [
        {"decay": decay, "targets": kind, "j": j, "error": float(found.mean[j])}
        for decay, errors in zip(DECAYS, by_decay, strict=True)
        for kind, found in errors.items()
        for j in kept
    ]
    write_csv(RESULTS / "decays.csv", decays)
    # Of two iterates over the same blocks: a block makes their difference ζ (I − P_τ) times what it was.
    undecayed = measured_rate(by_decay[DECAYS.index(1.0)]["exact"].mean)
    decay_rates = {str(decay): decay**2 * undecayed for decay in DECAYS}

    write_csv(RESULTS / "leverage.csv", spreads(scores, {name: weights for name, weights, _ in ways}, generator))

    floors = []
    for damping in torch.logspace(*FLOOR_DAMPINGS, 29, dtype=scores.dtype).tolist():
        blocks = Blocks.of(scores, blocks.rows, FLOORS_AT * damping)
        floor, repeated = blocks.noise(deviation) / blocks.rate, blocks.repeated_noise_bias(deviation)
        floors.append({"damping": damping, "floor": floor, "repeated": repeated})
    write_csv(RESULTS / "floors.csv", floors)

    broken = [row["damping"] for row in floors if row["repeated"] > row["floor"]]
    write_summary(
        "kaczmarz",
        "0",
        {
            "training": settings_of(TRAINING),
            "parameters": p,
            "samples": n,
            "condition_number": float(torch.linalg.cond(scores)),
            "norm_of_solution_squared": float(solution.square().sum()),
            "noise_standard_deviation": deviation,
            "exact_bound_holds": holds["exact"],
            "noisy_bound_holds": holds["fresh"],
            "noisy_bound_holds_with_noise_of_the_row": holds["repeated"],
            "noise_of_the_row_passes_the_floor_from_damping": min(broken) if broken else None,
            "rates_of_decays": decay_rates,
            "rates": {
                f"{row['blocks']} B={row['B']} damping={row['damping']}": {
                    "bound": row["1_−_μ"],
                    "measured": row["measured_rate"],
                }
                for row in rates
            },
        },
    )


def tabulate() -> list[Row]:
    """A row a decay ζ: ζ² times the rate of ζ = 1, and the errors after 1, 10 and 1,000 blocks with each target."""
    errors = {(row["decay"], row["targets"], row["j"]): row["error"] for row in read_csv(RESULTS / "decays.csv")}
    rates = json.loads((RESULTS / "summary.json").read_text())["rates_of_decays"]
    columns = [(kind, j) for kind in NOISES for j in ("1", "10", "1000")]
    return [
        {"ζ": decay, "ζ²_×_rate": f"{rates[str(float(decay))]:.4g}"}
        | {f"{kind},_j_=_{j}": f"{float(errors[decay, kind, j]):.2g}" for kind, j in columns}
        for decay in dict.fromkeys(decay for decay, _, _ in errors)
    ]


def draw() -> None:
    """Errors against their bounds a block size, then ζ, the floors, and leverage against uniform; the table of ζ."""
    write_csv(RESULTS / "decay_table.csv", tabulate())
    figure, axes = plt.subplots(3, 3, figsize=(15, 12), layout="constrained")
    curves = [row for row in read_csv(RESULTS / "errors.csv") if row["blocks"] == "uniform"]
    for column, size in enumerate(BLOCK_SIZES):
        for damping, colour in COLOURS.items():
            for kind in NOISES:
                rows = [r for r in curves if (r["B"], r["damping"], r["targets"]) == (str(size), damping, kind)]
                j, error, limit = ([float(row[name]) for row in rows] for name in ("j", "error", "bound"))
                axis = axes[0 if kind == "exact" else 1, column]
                axis.plot(j, error, color=colour, linestyle=":" if kind == "repeated" else "-")
                axis.plot(j, limit, color=colour, linestyle="--", linewidth=0.8)
        axes[0, column].set(title=f"exact targets, B = {size}", yscale="log", ylim=(1e-12, 30))
        axes[1, column].set(title=f"noisy targets, B = {size}", xscale="symlog", yscale="log")
        for row in (0, 1):
            axes[row, column].set(xlabel="blocks j")
    for row in (0, 1):
        axes[row, 0].set_ylabel("E‖g$_j$ − g*‖²")
    for damping, colour in COLOURS.items():
        axes[0, 0].plot([], [], color=colour, label=f"damping {damping}")
        axes[1, 0].plot([], [], color=colour, label=f"damping {damping}")
    axes[0, 0].plot([], [], "k--", linewidth=0.8, label="bound (1 − μ)$^j$‖g* ‖²")
    axes[1, 0].plot([], [], "k", label="fresh noise")
    axes[1, 0].plot([], [], "k:", label="noise of the row")
    axes[1, 0].plot([], [], "k--", linewidth=0.8, label="bound, with floor η²/μ")
    _draw_decays(axes[2, 0])
    _draw_floors(axes[2, 1])
    _draw_rates(axes[2, 2])
    for axis in axes.flat:
        axis.grid(alpha=0.3)
    for axis in (axes[0, 0], axes[1, 0], *axes[2]):
        axis.legend(frameon=False, fontsize=8)
    save(figure, RESULTS / "kaczmarz.png")


def _draw_decays(axis: "plt.Axes") -> None:
    rows = read_csv(RESULTS / "decays.csv")
    for index, decay in enumerate(dict.fromkeys(row["decay"] for row in rows)):
        for kind, style in zip(NOISES, ("-", "--", ":"), strict=True):
            chosen = [row for row in rows if (row["decay"], row["targets"]) == (decay, kind)]
            points = [(float(row["j"]), float(row["error"])) for row in chosen if row["j"] != "0"]
            label = f"ζ = {float(decay):g}" if kind == "exact" else None
            axis.plot(*zip(*points, strict=True), style, color=f"C{index}", label=label)
    axis.plot([], [], "k--", label="fresh noise")
    axis.plot([], [], "k:", label="noise of the row")
    title = f"decay ζ (B = {FLOORS_AT}, damping {DAMPINGS[-1]})"
    axis.set(title=title, xlabel="blocks j", ylabel="E‖g$_j$ − g*‖²", xscale="log", yscale="log", ylim=(0.03, 30))


def _draw_floors(axis: "plt.Axes") -> None:
    rows = read_csv(RESULTS / "floors.csv")
    damping, floor, repeated = ([float(row[name]) for row in rows] for name in ("damping", "floor", "repeated"))
    axis.plot(damping, floor, "k--", linewidth=0.8, label="floor of the bound, η²/μ")
    axis.plot(damping, repeated, "k:", label="noise of the row: at least")
    for row in read_csv(RESULTS / "rates.csv"):
        if row["blocks"] == "uniform" and row["B"] == str(FLOORS_AT):
            for name, marker in (("fresh_noise", "o"), ("repeated_noise", "x")):
                axis.plot(float(row["damping"]), float(row[name]), marker, color=COLOURS[row["damping"]])
    axis.plot([], [], "ko", label="fresh noise, measured at j = 1000")
    axis.plot([], [], "kx", label="noise of the row, measured at j = 1000")
    axis.set(title=f"floors (B = {FLOORS_AT})", xlabel="damping", ylabel="E‖g$_j$ − g*‖²", xscale="log", yscale="log")


def _draw_rates(axis: "plt.Axes") -> None:
    rows = read_csv(RESULTS / "rates.csv")
    for sampling, marker in (("uniform", "o"), ("leverage", "^")):
        for row in rows:
            if row["blocks"] == sampling:
                limit, found = 1 - float(row["1_−_μ"]), 1 - float(row["measured_rate"])
                axis.plot(limit, found, marker, color=COLOURS[row["damping"]], fillstyle="none")
        axis.plot([], [], marker, color="k", fillstyle="none", label=f"{sampling} blocks")
    ends = [3e-4, 1]
    axis.plot(ends, ends, "k--", linewidth=0.8, label="the bound")
    title, scale = "how loose: what a block takes off the error", {"xscale": "log", "yscale": "log"}
    axis.set(title=title, xlabel="at least, by the bound: μ", ylabel="measured: 1 − rate", **scale)


if __name__ == "__main__":
    run(__doc__, measure, draw)
