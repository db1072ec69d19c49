"""What bounds an update: its matrix products alone, and its tensor operations alone, with nothing between them."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from algorithm_cost import Update
from ratpg.natgrad.lower import LowerTriangle
from ratpg.natgrad.products import product
from ratpg.natgrad.workspace import Workspace
from ratpg.training.config import TrainConfig
from update_problem import SHAPES


def products_alone(config: TrainConfig[Any]) -> Callable[[], int]:
    """The products of one rollout's update by RAT or PPO at each call, which returns the rollout's steps.

    Both networks go forward and back; RAT's Gram matrix and Cholesky factorisation are those of `ratpg.natgrad`, in
    block columns.
    """
    d_obs, d_action = SHAPES[config.env.removesuffix("-v4")]
    steps, algorithm = config.num_envs * config.num_steps, config.algorithm
    actor = algorithm.epochs, algorithm.minibatches
    critic = (algorithm.critic_epochs, algorithm.critic_minibatches) if config.algo == "rat" else actor
    each: list[tuple[torch.Tensor, torch.Tensor, int]] = []
    for outputs, (epochs, minibatches) in ((d_action, actor), (1, critic)):
        batch = steps // minibatches
        layers = list(pairwise([d_obs, *config.hidden, outputs]))
        shapes = [(batch, d_out, d_in) for d_in, d_out in layers]
        shapes += [(batch, d_in, d_out) for d_in, d_out in layers[1:]]
        shapes += [(d_out, d_in, batch) for d_in, d_out in layers]
        if config.algo == "rat" and outputs == d_action:
            blocks = [part.shape for part in LowerTriangle.zeros(torch.empty(batch), Workspace()).panels]
            shapes += [(rows, width, d) for rows, width in blocks for layer in layers for d in layer]
            for index, (_, width) in enumerate(blocks):
                below = blocks[index + 1 :]
                shapes += [(below[0][0], width, width)] if below else []
                shapes += [(rows, columns, width) for rows, columns in below]
        each += [(torch.randn(m, k), torch.randn(n, k), epochs * minibatches) for m, n, k in shapes]

    @torch.no_grad()
    def run() -> int:
        for a, b, times in each:
            for _ in range(times):
                product(a, b)
        return steps

    return run


class _Recording(TorchDispatchMode):
    """Keeps every tensor operation that is called, with its arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls.append((func, args, kwargs or {}))
        return func(*args, **(kwargs or {}))


def operations_alone(config: TrainConfig[Any]) -> Callable[[], int]:
    """The tensor operations of one rollout's update at each call, which returns the rollout's steps.

    They are those that an update really calls, recorded, and called again with the same arguments: without the Python
    between them, and without autograd's graph.
    """
    # Calling the same clipping again and again would shrink a gradient until its numbers are denormal, which are slow.
    unclipped = {name: 1e9 for name in ("max_grad_norm", "critic_max_grad_norm") if hasattr(config.algorithm, name)}
    steps = config.num_envs * config.num_steps
    minibatch = steps // config.algorithm.minibatches
    update = Update(replace(config.algorithm, **unclipped), config.env.removesuffix("-v4"), minibatch)
    update()  # makes optimisers' states and buffers
    with _Recording() as recording:
        update()

    @torch.no_grad()
    def run() -> int:
        for func, args, kwargs in recording.calls:
            func(*args, **kwargs)
        return steps

    return run


def one_after_the_other(first: list[float], second: list[float]) -> list[float]:
    """Steps a second of two tasks, each of them done for every step, from their own."""
    return [1 / (1 / a + 1 / b) for a, b in zip(first, second, strict=True)]
