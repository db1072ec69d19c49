"""Per-sample gradients of free parameters in modules that are not ours, such as a ``log_std`` beside a network.

While a forward pass is recorded such a parameter is replaced by a stand-in. Where the stand-in meets a tensor with
the samples in front, ``[B, ...]``, and would be broadcast over them, it takes part as its expansion
``[B, *shape]``: the same values, but with a gradient row for each sample. Everywhere else it is the parameter.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

# Names of torch functions and tensor methods: what maps each element by itself ...
ELEMENTWISE = frozenset(
    {"exp", "log", "sqrt", "square", "neg", "__neg__", "abs", "tanh", "sigmoid", "softplus"}
    | {"clamp", "clamp_min", "clamp_max", "clip", "float", "double"}
)
# ... and what combines tensors of different shapes as if the smaller were repeated.
BROADCASTING = frozenset(
    {"add", "__add__", "__radd__", "sub", "__sub__", "__rsub__", "mul", "__mul__", "__rmul__"}
    | {"div", "__truediv__", "__rtruediv__", "true_divide", "pow", "__pow__", "expand_as", "broadcast_tensors"}
)

UNARY = ELEMENTWISE | (BROADCASTING - {"expand_as", "broadcast_tensors"})
"""What gives one tensor from a parameter and numbers."""

OnExpand = Callable[[Tensor], None]


class StandIn(Tensor):
    """Acts as ``compute(source)``, a function of a free parameter that has the parameter's shape."""

    source: nn.Parameter
    compute: Callable[[Tensor], Tensor]
    on_expand: OnExpand

    @staticmethod
    def of(source: nn.Parameter, compute: Callable[[Tensor], Tensor], on_expand: OnExpand) -> "StandIn":
        # Not detached: an autograd function of somebody's own takes it as it is.
        stand_in: StandIn = source.as_subclass(StandIn)
        stand_in.source, stand_in.compute, stand_in.on_expand = source, compute, on_expand
        return stand_in

    @classmethod
    def __torch_function__(
        cls, func: Callable, types: Any, args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        with torch._C.DisableTorchFunctionSubclass():
            name = getattr(func, "__name__", "")
            leaves = tree_flatten((args, kwargs))[0]
            mine = [leaf for leaf in leaves if isinstance(leaf, StandIn)]
            others = [leaf for leaf in leaves if isinstance(leaf, Tensor) and not isinstance(leaf, StandIn)]
            if len(mine) == 1 and not others and name in UNARY:
                (one,) = mine
                return StandIn.of(one.source, _then(one, func, args, kwargs), one.on_expand)
            if len(mine) == 1 and others and name in BROADCASTING:
                expanded = _expand(mine[0], others)
                if expanded is not None:
                    return func(*_replace(args, expanded), **_replace(kwargs, expanded))
            args, kwargs = tree_map(_plain, (args, kwargs))
            return func(*args, **kwargs)


def _then(one: StandIn, func: Callable, args: tuple, kwargs: dict[str, Any]) -> Callable[[Tensor], Tensor]:
    """``compute`` followed by one more elementwise function."""

    def compute(value: Tensor) -> Tensor:
        value = one.compute(value)
        return func(*_replace(args, value), **_replace(kwargs, value))

    return compute


def _expand(one: StandIn, others: list[Tensor]) -> Tensor | None:
    """The stand-in with a leading sample dimension, or None where it would not simply be broadcast over samples."""
    shape, whole = one.source.shape, others[0].shape
    if any(other.shape != whole for other in others) or not whole:
        return None
    inner = shape[1:] if len(shape) == len(whole) and shape[0] == 1 else shape
    gap = len(whole) - 1 - len(inner)
    if gap < 0 or any(size not in (1, full) for size, full in zip(inner, whole[1 + gap :], strict=True)):
        return None
    rows = one.source.expand(whole[0], *inner)
    one.on_expand(rows)
    return one.compute(rows.view(whole[0], *[1] * gap, *inner))


def _replace(tree: Any, value: Tensor) -> Any:
    return tree_map(lambda leaf: value if isinstance(leaf, StandIn) else leaf, tree)


def _plain(leaf: Any) -> Any:
    return leaf.compute(leaf.source) if isinstance(leaf, StandIn) else leaf


@contextmanager
def stand_ins(
    modules: Mapping[str, nn.Module], name_of: Mapping[int, str], on_expand: Callable[[str, Tensor], None]
) -> Iterator[None]:
    """Replaces the free parameters of modules for as long as the context is open.

    PyTorch's own modules are left alone: what they do with their parameters is no plain broadcast.

    Args:
        modules: where to look.
        name_of: ``id(parameter)`` -> name, of the parameters that count.
        on_expand: called with a parameter's name and each expansion ``[B, *shape]`` (a leading 1 dropped).
    """
    replaced: list[tuple[nn.Module, str, nn.Parameter]] = []
    try:
        for module in modules.values():
            if type(module).__module__.startswith(("torch.nn.", "ratpg.natgrad.")):
                continue
            for attribute, parameter in module._parameters.items():
                if parameter is not None and parameter.requires_grad and id(parameter) in name_of:
                    replaced.append((module, attribute, parameter))
        for module, attribute, parameter in replaced:
            stand_in = StandIn.of(parameter, lambda value: value, partial(on_expand, name_of[id(parameter)]))
            # The module finds it where it looks for its parameter; a tensor is no `nn.Parameter`, which is the point.
            module._parameters[attribute] = stand_in  # type: ignore[assignment]
        yield
    finally:
        for module, attribute, parameter in replaced:
            module._parameters[attribute] = parameter
