"""The univariate Gaussian of the paper: which way four gradients point, and where they lead.

    ratpg reproduce gaussian

A policy ``N(μ, σ)`` with ``θ = (μ, log σ)`` is to become ``N(1, 0.5)``: the reward of a sample is
``log p*(x) − log π(x)``, whose mean is minus the divergence of the two. From the same samples are taken: the vanilla
gradient ``Hᵀy/B``; the natural gradient ``F⁻¹Hᵀy/B`` with the closed form ``F = diag(1/σ², 2)``; the empirical natural
gradient ``(λI + HᵀH/B)⁻¹Hᵀy/B``; and RAT's, by block Kaczmarz, with blocks of the whole batch (full coverage) and of an
eighth. The contours are of the divergence. Half a minute.
"""

from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor

from ratpg import AdvantageTransform
from report import Row, read_csv, run, save, write_csv, write_summary

RESULTS = Path("results/gaussian")
TARGET_MEAN, TARGET_LOG_STD = 1.0, float(np.log(0.5))
SAMPLES, STEPS, DAMPING = 1024, 100, 1e-3
STEP_SIZE, MAX_STEP_NORM = 0.1, 0.1
START = (-1.5, 0.8)
SWEEPS = 4
"""Passes of Kaczmarz over the mini-batches."""

Direction = Callable[[Tensor, Tensor], Tensor]


def log_density(x: Tensor, theta: Tensor) -> Tensor:
    """Up to a constant, ``[B]``."""
    return -0.5 * ((x - theta[0]) * torch.exp(-theta[1])).square() - theta[1]


def scores(theta: Tensor, x: Tensor) -> Tensor:
    """``H [B, 2]`` in closed form."""
    z = (x - theta[0]) / theta[1].exp()
    return torch.stack([z / theta[1].exp(), z.square() - 1], 1)


def advantages(theta: Tensor, x: Tensor) -> Tensor:
    target = torch.tensor([TARGET_MEAN, TARGET_LOG_STD], dtype=theta.dtype)
    reward = log_density(x, target) - log_density(x, theta)
    return reward - reward.mean()


def vanilla(theta: Tensor, x: Tensor) -> Tensor:
    return scores(theta, x).T @ advantages(theta, x) / len(x)


def closed_form(theta: Tensor, x: Tensor) -> Tensor:
    return vanilla(theta, x) / torch.stack([torch.exp(-2 * theta[1]), torch.full_like(theta[1], 2.0)])


def empirical(theta: Tensor, x: Tensor) -> Tensor:
    h = scores(theta, x)
    return torch.linalg.solve(h.T @ h / len(x) + DAMPING * torch.eye(2, dtype=h.dtype), vanilla(theta, x))


def rat(block: int) -> Direction:
    """RAT with mini-batches of ``block`` samples: ζ = 0 for the whole batch, else the mean of ζ = 1's iterates."""

    def direction(theta: Tensor, x: Tensor) -> Tensor:
        parameter = torch.nn.Parameter(theta.clone())
        transform = AdvantageTransform([parameter], DAMPING)
        y, previous, found = advantages(theta, x), None, []
        generator = torch.Generator().manual_seed(0)
        for _ in range(1 if block >= len(x) else SWEEPS):
            for index in torch.randperm(len(x), generator=generator).split(block):
                with transform.record():
                    # One row of parameters a sample, so that the recorder sees the samples' scores apart.
                    log_prob = log_density(x[index], parameter[:, None].expand(2, len(index)))
                step = transform(log_prob, y[index], previous=previous, decay=0.0 if previous is None else 1.0)
                previous = step.direction
                found.append(step.direction["0"])
        return torch.stack(found).mean(0)

    return direction


WAYS: dict[str, Direction] = {
    "vanilla": vanilla,
    "closed-form natural": closed_form,
    "empirical natural": empirical,
    "RAT, full coverage": rat(SAMPLES),
    "RAT, blocks of an eighth": rat(SAMPLES // 8),
}
LINES = {
    "vanilla": ("0.5", 1.5),
    "closed-form natural": ("tab:blue", 1.5),
    "empirical natural": ("tab:green", 5.0),
    "RAT, full coverage": ("tab:red", 2.5),
    "RAT, blocks of an eighth": ("tab:orange", 1.0),
}
"""Colours, and widths with which those that coincide stay visible."""


def draw_samples(theta: Tensor, seed: int) -> Tensor:
    noise = torch.randn(SAMPLES, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return theta[0] + theta[1].exp() * noise


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


def trajectory(direction: Direction) -> Tensor:
    """``θ`` at every step, ``[STEPS + 1, 2]``."""
    theta = torch.tensor(START, dtype=torch.float64)
    points = [theta]
    for step in range(STEPS):
        g = direction(theta, draw_samples(theta, step))
        theta = theta + min(STEP_SIZE, MAX_STEP_NORM / float(g.norm())) * g
        points.append(theta)
    return torch.stack(points)


def measure() -> None:
    """Writes trajectories.csv, directions.csv, field.csv and the summary."""
    paths = {name: trajectory(direction) for name, direction in WAYS.items()}
    rows = [
        {"gradient": name, "step": step, "mean": theta[0], "log_std": theta[1]}
        for name, path in paths.items()
        for step, theta in enumerate(path.tolist())
    ]
    write_csv(RESULTS / "trajectories.csv", rows)

    # Directions are compared from the same samples, at the points of the empirical natural gradient's way.
    cosines: list[dict[str, float]] = []
    for step, theta in enumerate(paths["empirical natural"][:-1]):
        x = draw_samples(theta, step)
        reference = empirical(theta, x)
        cosines.append({name: cosine(direction(theta, x), reference) for name, direction in WAYS.items()})
    write_csv(RESULTS / "directions.csv", [{"step": step, **row} for step, row in enumerate(cosines)])

    field = []
    for mean in np.linspace(-1.7, 1.7, 8):
        for log_std in np.linspace(-1.1, 1.0, 7):
            theta = torch.tensor([mean, log_std], dtype=torch.float64)
            x = draw_samples(theta, 0)
            for name, direction in WAYS.items():
                g = direction(theta, x)
                u, v = (g / g.norm()).tolist()
                field.append({"gradient": name, "mean": float(mean), "log_std": float(log_std), "u": u, "v": v})
    write_csv(RESULTS / "field.csv", field)

    least = {name: min(row[name] for row in cosines) for name in WAYS}
    optimum = torch.tensor([TARGET_MEAN, TARGET_LOG_STD], dtype=torch.float64)
    write_summary(
        "gaussian",
        f"0 to {STEPS - 1}, one a step",
        {
            "min_cosine_rat_empirical": least["RAT, full coverage"],
            "min_cosine_rat_eighth_empirical": least["RAT, blocks of an eighth"],
            "min_cosine_closed_form_empirical": least["closed-form natural"],
            "min_cosine_vanilla_empirical": least["vanilla"],
            "final_distance": {name: float((path[-1] - optimum).norm()) for name, path in paths.items()},
        },
    )


def tabulate() -> list[Row]:
    """A row a gradient: least cosine with the empirical natural gradient, and how far from the optimum it ends."""
    directions, trajectories = read_csv(RESULTS / "directions.csv"), read_csv(RESULTS / "trajectories.csv")
    table = []
    for name in LINES:
        least = min(float(row[name]) for row in directions)
        last = [row for row in trajectories if row["gradient"] == name][-1]
        distance = np.hypot(float(last["mean"]) - TARGET_MEAN, float(last["log_std"]) - TARGET_LOG_STD)
        table.append({"gradient": name, "least_cosine": f"{least:.4f}", "distance_at_the_end": f"{distance:.4f}"})
    return table


def draw() -> None:
    """Trajectories over contours, a field of arrows a gradient, cosines along the trajectory; and the table."""
    write_csv(RESULTS / "table.csv", tabulate())
    figure = plt.figure(figsize=(16, 5.2), layout="constrained")
    axes = figure.subplot_mosaic([["ways", "vanilla", "closed", "cosine"], ["ways", "empirical", "rat", "cosine"]])
    for name in ("ways", "vanilla", "closed", "empirical", "rat"):
        _landscape(axes[name])

    trajectories = read_csv(RESULTS / "trajectories.csv")
    for name, (colour, width) in LINES.items():
        points = [(float(row["mean"]), float(row["log_std"])) for row in trajectories if row["gradient"] == name]
        axes["ways"].plot(*zip(*points, strict=True), color=colour, linewidth=width, label=name)
    axes["ways"].set(title="trajectories", xlabel="mean θ₁", ylabel="log standard deviation θ₂")
    axes["ways"].legend(frameon=False, fontsize=8)

    field = read_csv(RESULTS / "field.csv")
    panels = ("vanilla", "closed-form natural", "empirical natural", "RAT, full coverage")
    for key, name in zip(("vanilla", "closed", "empirical", "rat"), panels, strict=True):
        columns = ("mean", "log_std", "u", "v")
        arrows = np.array([[float(row[column]) for column in columns] for row in field if row["gradient"] == name])
        axes[key].quiver(*arrows.T, color=LINES[name][0], pivot="tail", scale=14, width=0.008)
        axes[key].set(title=name, xticks=[], yticks=[])

    directions = read_csv(RESULTS / "directions.csv")
    for name, (colour, width) in LINES.items():
        if name != "empirical natural":
            cosines = [float(row[name]) for row in directions]
            axes["cosine"].plot(cosines, color=colour, linewidth=width, label=name)
    axes["cosine"].set(title="cosine with the empirical natural gradient", xlabel="step along its trajectory")
    axes["cosine"].grid(alpha=0.3)
    axes["cosine"].legend(frameon=False, fontsize=8)
    save(figure, RESULTS / "gaussian.png")


def _landscape(axis: "plt.Axes") -> None:
    mean, log_std = np.meshgrid(np.linspace(-2.0, 2.0, 160), np.linspace(-1.4, 1.2, 160))
    ratio = (np.exp(2 * log_std) + (mean - TARGET_MEAN) ** 2) / (2 * np.exp(2 * TARGET_LOG_STD))
    divergence = TARGET_LOG_STD - log_std + ratio - 0.5
    axis.contour(mean, log_std, divergence, levels=np.geomspace(0.02, 60, 14), colors="0.85", linewidths=0.8)
    axis.plot(TARGET_MEAN, TARGET_LOG_STD, "k*", markersize=10)


if __name__ == "__main__":
    run(__doc__, measure, draw)
