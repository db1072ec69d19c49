"""How near each way comes to the exact damped natural gradient, against the time that it takes.

    ratpg reproduce identity

RAT's default preset is trained on HalfCheetah-v4 (17 → 256 → 256 → 6, 71,948 parameters) and stopped at four points. At
each, on a rollout of about 2,040 transitions and with λ = 0.1, the exact step ``(λI + HᵀH/N)⁻¹ Hᵀy/N`` is compared, by
cosine and relative error, with: the vanilla gradient; the diagonal; KFAC and EKFAC from this batch; conjugate gradients
on the empirical Fisher matrix, and on TRPO's Hessian of the KL divergence; RAT on the whole batch; and RAT's Kaczmarz
iterate after 1 … 64 mini-batches of 256, for ζ = 0.9 and 1. With damping, the fixed point of that iteration is not the
exact step of the whole batch; one that carries the dual variable too, "RAT, dual", has that fixed point.

The parameter-sized matrix would be 41 GB in float64, so the reference is ``Hᵀ(λI + HHᵀ/N)⁻¹y/N`` from materialised
scores in float64; that it solves the parameter-sized system is certified by its residual there, and on a narrower
network it is compared with a dense solve of that system. One thread; what is interrupted goes on from the last of the
points.
"""

import statistics

import torch
from torch import Tensor

from directions import Reference, Ways, materialised_scores, reference, timed, timed_each
from ratpg.cli.arguments import parse_train
from ratpg.natgrad.dense import natural_gradient
from ratpg.rl.policy import ActorCritic
from report import RESULTS as ALL_RESULTS
from report import Row, plt, read_csv, run, save, write_csv, write_summary
from run import settings_of
from snapshots import Snapshot, snapshots

RESULTS = ALL_RESULTS / "identity"
POINTS = (0, 50_000, 150_000, 300_000)
TRAINING = f"--env HalfCheetah-v4 --total-timesteps {POINTS[-1]} --threads 1"
DAMPING = 0.1
PRODUCTS = (1, 2, 4, 8, 16, 32, 64)
BLOCK, DECAYS = 256, (0.9, 1.0)
NARROW = (32, 32)
STYLES = {
    "vanilla": ("0.5", "v"),
    "diagonal": ("tab:brown", "d"),
    "KFAC": ("tab:purple", "s"),
    "EKFAC": ("tab:pink", "s"),
    "CG, KL Fisher": ("tab:cyan", "."),
    "CG, empirical Fisher": ("tab:blue", "."),
    "RAT, ζ = 0.9": ("tab:orange", "."),
    "RAT, ζ = 1": ("tab:red", "."),
    "RAT, dual": ("tab:olive", "."),
    "RAT, whole batch": ("tab:green", "*"),
    "materialised, float64": ("k", "x"),
}


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


def compare(batch: Snapshot, exact: Reference) -> list[dict[str, object]]:
    """One row a way and number of iterations."""
    ways = Ways(batch, DAMPING)
    found: list[tuple[str, int, Tensor, float]] = [("materialised, float64", 1, exact.direction, exact.seconds)]
    once = {
        "vanilla": ways.vanilla,
        "diagonal": ways.diagonal,
        "KFAC": ways.kfac,
        "EKFAC": ways.ekfac,
        "RAT, whole batch": ways.rat,
    }
    found += [(name, 1, *timed(way)) for name, way in once.items()]
    for name, solve in (("CG, empirical Fisher", ways.cg_scores), ("CG, KL Fisher", ways.cg_kl)):
        found += [(name, count, *timed(lambda s=solve, n=count: s(n))) for count in PRODUCTS]
    for decay in DECAYS:
        iterates = timed_each(lambda d=decay: ways.kaczmarz(BLOCK, d, PRODUCTS[-1]))
        found += [(f"RAT, ζ = {decay:g}", count, *iterates[count - 1]) for count in PRODUCTS]
    iterates = timed_each(lambda: ways.dual_kaczmarz(BLOCK, PRODUCTS[-1]))
    found += [("RAT, dual", count, *iterates[count - 1]) for count in PRODUCTS]
    rows: list[dict[str, object]] = []
    for name, iterations, direction, seconds in found:
        direction = direction.double()
        rows.append(
            {
                "timesteps": batch.timesteps,
                "way": name,
                "iterations": iterations,
                "milliseconds": 1e3 * seconds,
                "cosine": cosine(direction, exact.direction),
                "relative_error": float((direction - exact.direction).norm() / exact.direction.norm()),
            }
        )
    return rows


def check_on_narrow_network(batch: Snapshot) -> float:
    """Relative difference between the reference and a dense solve of the parameter-sized system."""
    torch.manual_seed(0)
    values = vars(batch.policy.spec) | {"hidden": NARROW}
    actor = ActorCritic(type(batch.policy.spec)(**values)).actor
    found = reference(actor, batch, DAMPING).direction
    scores = materialised_scores(actor, batch.observations.double(), batch.actions.double())
    y = batch.advantages.double()
    dense = natural_gradient(scores, y, torch.ones_like(y), DAMPING)
    return float((found - dense).norm() / dense.norm())


def measure() -> None:
    """Trains what is missing; writes identity.csv, table.csv and the summary."""
    torch.set_num_threads(1)
    config = parse_train(TRAINING.split())
    rows: list[dict[str, object]] = []
    bounds, difference = [], 0.0
    for batch in snapshots(config, POINTS):
        exact = reference(batch.policy.actor, batch, DAMPING)
        bounds.append(exact.error_bound)
        difference = max(difference, check_on_narrow_network(batch))
        rows += compare(batch, exact)
        print(f"{batch.timesteps} steps: reference certified to {exact.error_bound:.1e}", flush=True)
    write_csv(RESULTS / "identity.csv", rows)
    whole = [row for row in rows if row["way"] == "RAT, whole batch"]
    write_summary(
        "identity",
        "0",
        {
            "training": settings_of(TRAINING),
            "reference_error_at_most": max(bounds),
            "narrow_network_difference_from_dense_solve": difference,
            "min_cosine_rat": min(row["cosine"] for row in whole),
            "max_relative_error_rat": max(row["relative_error"] for row in whole),
            "cosines": {
                f"{row['way']}, {row['iterations']}": row["cosine"]
                for row in rows
                if row["timesteps"] == rows[-1]["timesteps"]
            },
        },
    )


def tabulate(rows: list[Row]) -> list[Row]:
    """A row a way, its cosine at each point; of the iterations a few numbers of them, and all times as medians."""
    points = list(dict.fromkeys(row["timesteps"] for row in rows))
    table: list[Row] = []
    for way in STYLES:
        for count in dict.fromkeys(row["iterations"] for row in rows if row["way"] == way):
            if count not in ("1", "8", "64"):
                continue
            chosen = {row["timesteps"]: row for row in rows if (row["way"], row["iterations"]) == (way, count)}
            time = statistics.median(float(row["milliseconds"]) for row in chosen.values())
            cosines = {f"at_{int(point):,}": f"{float(chosen[point]['cosine']):.3f}" for point in points}
            table.append({"way": way, "iterations": count, "ms": f"{time:.0f}"} | cosines)
    return table


def draw() -> None:
    """Cosine and relative error against time, a column a point of training; and the table."""
    rows = read_csv(RESULTS / "identity.csv")
    write_csv(RESULTS / "table.csv", tabulate(rows))
    points = list(dict.fromkeys(row["timesteps"] for row in rows))
    figure, axes = plt.subplots(2, len(points), figsize=(17, 8), sharex=True, sharey="row", layout="constrained")
    for column, point in enumerate(points):
        for way, (colour, marker) in STYLES.items():
            chosen = [row for row in rows if (row["timesteps"], row["way"]) == (point, way)]
            times = [float(row["milliseconds"]) for row in chosen]
            style = {"color": colour, "marker": marker, "markersize": 8 if marker == "*" else 6, "label": way}
            axes[0, column].plot(times, [float(row["cosine"]) for row in chosen], **style)
            if way != "materialised, float64":  # whose error is zero by definition
                axes[1, column].plot(times, [float(row["relative_error"]) for row in chosen], **style)
        axes[0, column].set(title=f"after {int(point):,} steps", xscale="log")
        axes[1, column].set(yscale="log", xlabel="milliseconds")
        for axis in axes[:, column]:
            axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel("cosine with the exact step")
    axes[1, 0].set_ylabel("relative error")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    save(figure, RESULTS / "identity.png")


if __name__ == "__main__":
    run(__doc__, measure, draw)
