"""What no implementation of an update is faster than on a machine: its matrix products, and nothing between them."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch

from ratpg.natgrad.products import product
from ratpg.training.config import TrainConfig
from update_problem import SHAPES


def products_alone(config: TrainConfig[Any]) -> Callable[[], int]:
    """The products of one rollout's update by RAT or PPO at each call, which returns the rollout's steps.

    Both networks go forward and back. RAT's Gram matrix is taken at half of what the whole product ``[B, B]`` takes,
    for it is symmetric, its Cholesky factorisation (``B³/3`` operations) at a sixth of a product of ``B × B`` matrices.
    """
    d_obs, d_action = SHAPES[config.env.removesuffix("-v4")]
    steps, algorithm = config.num_envs * config.num_steps, config.algorithm
    batch = steps // algorithm.minibatches
    shapes: list[tuple[int, int, int]] = []
    for outputs in (d_action, 1):
        layers = list(pairwise([d_obs, *config.hidden, outputs]))
        shapes += [(batch, d_out, d_in) for d_in, d_out in layers]
        shapes += [(batch, d_in, d_out) for d_in, d_out in layers[1:]]
        shapes += [(d_out, d_in, batch) for d_in, d_out in layers]
    each = [(a, b, 1.0) for a, b in (_operands(*shape) for shape in shapes)]
    if config.algo == "rat":
        widths = sum(d_in + d_out for d_in, d_out in pairwise([d_obs, *config.hidden, d_action]))
        each += [(*_operands(batch, batch, widths), 1 / 2), (*_operands(batch, batch, batch), 1 / 6)]
    updates = algorithm.epochs * algorithm.minibatches

    @torch.no_grad()
    def run() -> int:
        for a, b, share in each:
            for _ in range(round(updates * share)):
                product(a, b)
        return steps

    return run


def _operands(m: int, n: int, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(m, k), torch.randn(n, k)


def one_after_the_other(first: list[float], second: list[float]) -> list[float]:
    """Steps a second of two tasks, each of them done for every step, from their own."""
    return [1 / (1 / a + 1 / b) for a, b in zip(first, second, strict=True)]
