"""The univariate Gaussian of the paper: which way four gradients point, and where they lead.

    python experiments/gaussian.py

A policy ``N(μ, σ)`` with ``θ = (μ, log σ)`` is to become ``N(1, 0.5)``: the reward of a sample is
``log p*(x) − log π(x)``, whose mean is minus the divergence of the two. From the same samples are taken: the vanilla
gradient ``Hᵀy/B``; the natural gradient ``F⁻¹Hᵀy/B`` with the closed form ``F = diag(1/σ², 2)``; the empirical natural
gradient ``(λI + HᵀH/B)⁻¹Hᵀy/B``; and RAT's, by block Kaczmarz, with blocks of the whole batch (full coverage) and of an
eighth. Writes ``results/gaussian/``: directions.csv, trajectories.csv, a figure, and ``summary.json``.
"""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import torch
from torch import Tensor

from ratpg import AdvantageTransform
from runner import commit, versions

matplotlib.use("Agg")
import matplotlib.pyplot as plt

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


def draw(paths: dict[str, Tensor]) -> None:
    """Contours of the divergence, the trajectories, and arrows of each direction."""
    mean, log_std = np.meshgrid(np.linspace(-2.0, 2.0, 160), np.linspace(-1.4, 1.2, 160))
    ratio = (np.exp(2 * log_std) + (mean - TARGET_MEAN) ** 2) / (2 * np.exp(2 * TARGET_LOG_STD))
    divergence = TARGET_LOG_STD - log_std + ratio - 0.5
    figure, axes = plt.subplots(1, 2, figsize=(12, 4.8), layout="constrained")
    colours = dict(zip(WAYS, ("0.5", "tab:blue", "tab:green", "tab:red", "tab:orange"), strict=True))
    widths = dict(zip(WAYS, (1.5, 1.5, 5.0, 2.5, 1.0), strict=True))  # those that coincide stay visible
    for axis in axes:
        axis.contour(mean, log_std, divergence, levels=np.geomspace(0.02, 60, 14), colors="0.85", linewidths=0.8)
        axis.plot(TARGET_MEAN, TARGET_LOG_STD, "k*", markersize=12)
        axis.set(xlabel="mean θ₁", ylabel="log standard deviation θ₂")
    for name, path in paths.items():
        axes[0].plot(*path.T.numpy(), color=colours[name], linewidth=widths[name], label=name)
    axes[0].legend(frameon=False, fontsize=8)
    axes[0].set_title("trajectories")
    for mu in np.linspace(-1.6, 1.8, 6):
        for s in np.linspace(-1.0, 1.0, 5):
            theta = torch.tensor([mu, s], dtype=torch.float64)
            for name, direction in WAYS.items():
                arrow = direction(theta, draw_samples(theta, 0))
                arrow = 0.25 * arrow / arrow.norm()
                axes[1].annotate(
                    "",
                    (mu + float(arrow[0]), s + float(arrow[1])),
                    (mu, s),
                    arrowprops={"arrowstyle": "->", "color": colours[name], "linewidth": widths[name]},
                )
    axes[1].set_title("directions, to unit length")
    for suffix in (".png", ".svg"):
        figure.savefig((RESULTS / "gaussian").with_suffix(suffix), dpi=150)


def main() -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    paths = {name: trajectory(direction) for name, direction in WAYS.items()}
    with (RESULTS / "trajectories.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["gradient", "step", "mean", "log_std"])
        for name, path in paths.items():
            writer.writerows([name, step, *(f"{v:.6f}" for v in theta)] for step, theta in enumerate(path.tolist()))
    # Directions are compared from the same samples, at the points of the empirical natural gradient's way.
    cosines: dict[str, list[float]] = {name: [] for name in WAYS}
    for step, theta in enumerate(paths["empirical natural"][:-1]):
        x = draw_samples(theta, step)
        reference = empirical(theta, x)
        for name, direction in WAYS.items():
            cosines[name].append(cosine(direction(theta, x), reference))
    with (RESULTS / "directions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["step", *cosines])
        writer.writerows(
            [step, *(f"{v:.6f}" for v in row)] for step, row in enumerate(zip(*cosines.values(), strict=True))
        )
    draw(paths)
    optimum = torch.tensor([TARGET_MEAN, TARGET_LOG_STD], dtype=torch.float64)
    summary = {
        "command": "python experiments/gaussian.py",
        "commit": commit(),
        "versions": versions(),
        "min_cosine_rat_empirical": min(cosines["RAT, full coverage"]),
        "min_cosine_rat_eighth_empirical": min(cosines["RAT, blocks of an eighth"]),
        "min_cosine_closed_form_empirical": min(cosines["closed-form natural"]),
        "min_cosine_vanilla_empirical": min(cosines["vanilla"]),
        **{f"final_distance {name}": float((path[-1] - optimum).norm()) for name, path in paths.items()},
    }
    (RESULTS / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    print(json.dumps(summary, indent=2))


if __name__ == "__main__":
    main()
