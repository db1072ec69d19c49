"""What bounds training: the simulator with an update's matrix products, or all its tensor operations, and no pause.

Everything is timed on one thread and counted as if all threads were busy all the time, so that no order of the same
work, however it overlaps, is faster.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from algorithm_cost import Update
from ratpg.natgrad.lower import LowerTriangle
from ratpg.natgrad.products import product
from ratpg.natgrad.workspace import Workspace
from ratpg.training.config import TrainConfig
from simulator import bare_simulator
from update_problem import SHAPES

Task = Callable[[], int]


def bound(config: TrainConfig[Any], part: Callable[[TrainConfig[Any]], Task]) -> Task:
    """A rollout of the bare simulator and a part of its update at each call, which returns ``threads`` rollouts' steps.

    Args:
        config: of the training.
        part: `products_alone` or `operations_alone`.
    """
    simulate = bare_simulator(config.env, config.num_envs, config.num_steps, threads=1)
    update = part(config)

    def run() -> int:
        torch.set_num_threads(1)
        simulate()
        return config.threads * update()

    return run


def products_alone(config: TrainConfig[Any]) -> Task:
    """The products of one rollout's update by RAT or PPO at each call, which returns the rollout's steps.

    Both networks go forward and back; RAT's Gram matrix and Cholesky factorisation are those of `ratpg.natgrad`, in
    block columns.
    """
    d_obs, d_action = SHAPES[config.env.removesuffix("-v4")]
    steps, algorithm = config.num_envs * config.num_steps, config.algorithm
    actor = algorithm.epochs, algorithm.minibatches
    critic = (algorithm.critic_epochs, algorithm.critic_minibatches) if config.algo == "rat" else actor
    each: list[tuple[Tensor, Tensor, int]] = []
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


@dataclass
class _Call:
    """A tensor operation; its arguments that an earlier one has made are told by the number of that result."""

    func: Callable[..., Any]
    args: list[Any]
    kwargs: dict[str, Any]
    taken: list[tuple[bool, Any, int]]
    """Whether it is a keyword, which argument, and the number of the result that goes there."""
    made: list[int | None]
    """Numbers of its own results; None for what is no new tensor."""
    last: list[int] = field(default_factory=list)
    """Results that no later call takes."""


class _Recording(TorchDispatchMode):
    """Keeps every tensor operation that is called, with its arguments or where they come from.

    What no operation has made, parameters and data, is kept itself. So are lists of tensors, and what autograd hands
    back in another guise: they hold the recorded values, which cost the same.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[_Call] = []
        self._results: list[Tensor] = []  # held while recording, so that no other tensor takes the id of one
        self._numbers: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [(False, *item) for item in enumerate(args)] + [(True, *item) for item in kwargs.items()]
        taken = [(keyword, key, self._numbers[id(x)]) for keyword, key, x in given if id(x) in self._numbers]
        result = func(*args, **kwargs)
        inputs = [id(x) for _, _, x in given]
        made = [self._number(x) if isinstance(x, Tensor) and id(x) not in inputs else None for x in _each(result)]
        kept = {(keyword, key) for keyword, key, _ in taken}
        self.calls.append(
            _Call(
                func,
                [None if (False, key) in kept else x for key, x in enumerate(args)],
                {key: None if (True, key) in kept else x for key, x in kwargs.items()},
                taken,
                made,
            )
        )
        return result

    def _number(self, result: Tensor) -> int:
        self._results.append(result)
        self._numbers[id(result)] = len(self._results) - 1
        return len(self._results) - 1

    def finish(self) -> list[_Call]:
        """The calls, with what each lets go; forgets all results."""
        seen: set[int] = set()
        for call in reversed(self.calls):
            numbers = {number for _, _, number in call.taken} | {number for number in call.made if number is not None}
            call.last = sorted(numbers - seen)
            seen |= numbers
        self._results.clear()
        self._numbers.clear()
        return self.calls


def _each(result: Any) -> Sequence[Any]:
    return result if isinstance(result, (tuple, list)) else (result,)


def operations_alone(config: TrainConfig[Any]) -> Task:
    """The tensor operations of one rollout's update at each call, which returns the rollout's steps.

    They are those that an update really calls, recorded, and called again: without the Python between them, and
    without autograd's graph. Small ones, each called from Python, take a few percent longer than inside of PyTorch.
    """
    # Calling the same clipping again and again would shrink a gradient until its numbers are denormal, which are slow.
    unclipped = {name: 1e9 for name in ("max_grad_norm", "critic_max_grad_norm") if hasattr(config.algorithm, name)}
    steps = config.num_envs * config.num_steps
    minibatch = steps // config.algorithm.minibatches
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # which kernels are called depends on it
    update = Update(replace(config.algorithm, **unclipped), config.env.removesuffix("-v4"), minibatch)
    update()  # makes optimisers' states and buffers
    with _Recording() as recording:
        update()
    torch.set_num_threads(threads)
    calls = recording.finish()

    @torch.no_grad()
    def run() -> int:
        results: dict[int, Tensor] = {}
        for call in calls:
            args, kwargs = call.args.copy(), call.kwargs.copy()
            for keyword, key, number in call.taken:
                (kwargs if keyword else args)[key] = results[number]
            for number, result in zip(call.made, _each(call.func(*args, **kwargs)), strict=True):
                if number is not None:
                    results[number] = result
            for number in call.last:
                del results[number]
        return steps

    return run
