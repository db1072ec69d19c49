"""Per-sample gradients of free parameters, such as a ``log_std`` beside a network.

While a forward pass is recorded, a free parameter that is handed to a function of PyTorch's takes part as a stand-in.
Where that meets a tensor with the samples in front, ``[B, ...]``, and would be broadcast over them, or is expanded to
``[B, ...]`` itself, it is replaced by its expansion ``[B, *shape]``: the same values (to rounding), but with a gradient
row for each sample. Everywhere else it is the parameter, and what is computed from it an ordinary tensor. The parameter
itself, and whoever holds it, stays as it is.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
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

# What repeats one tensor to a shape that is given.
EXPANDING = frozenset({"expand", "broadcast_to", "repeat"})

UNARY = ELEMENTWISE | (BROADCASTING - {"expand_as", "broadcast_tensors"})
"""What gives one tensor from a parameter and numbers."""

OnExpand = Callable[[Tensor], None]
Version = tuple[int | None, int]


def _itself(value: Tensor) -> Tensor:
    return value


class StandIn(Tensor):
    """Acts as a free parameter, or as an elementwise function of one.

    Attributes:
        value: the tensor that it stands for.
        shown: how often the value's memory was handed out, to be changed without notice.
        parent: what it is a function of, None where it stands for the parameter itself.
        closed: whether the recording is over; only told of the parameter's own.
        step: that function.
        versions: of itself and of the parent when it was computed.
        on_expand: called with each expansion of the parameter.
    """

    value: Tensor
    shown: int
    parent: "StandIn | None"
    closed: bool
    step: Callable[[Tensor], Tensor]
    versions: tuple[Version, Version | None]
    on_expand: OnExpand

    @staticmethod
    def of(
        value: Tensor, on_expand: OnExpand, parent: "StandIn | None" = None, step: Callable[[Tensor], Tensor] = _itself
    ) -> "StandIn":
        # Not detached: an autograd function of somebody's own takes it as it is.
        stand_in: StandIn = value.as_subclass(StandIn)
        stand_in.value, stand_in.shown, stand_in.parent, stand_in.closed = value, 0, parent, False
        stand_in.step, stand_in.on_expand = step, on_expand
        stand_in.versions = stand_in.version(), None if parent is None else parent.version()
        return stand_in

    def version(self) -> Version:
        """What a change in place changes too."""
        return None if self.value.is_inference() else self.value._version, self.shown

    def root(self) -> Tensor | None:
        """The parameter, or None where something has been changed in place since this was computed from it, as an
        optimiser may do without notice once the recording is over."""
        if self.parent is None:
            return None if self.closed else self.value
        unchanged = self.versions == (self.version(), self.parent.version()) and not self.value.is_inference()
        return self.parent.root() if unchanged else None

    def along(self, rows: Tensor) -> Tensor:
        """What it stands for, of these rows instead of the parameter."""
        return rows if self.parent is None else self.step(self.parent.along(rows))

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

                def step(value: Tensor) -> Tensor:
                    return func(*_replace(args, value), **_replace(kwargs, value))

                return StandIn.of(step(mine[0].value), mine[0].on_expand, mine[0], step)
            if len(mine) == 1 and others and name in BROADCASTING:
                expanded = _expand(mine[0], others)
                if expanded is not None:
                    return func(*_replace(args, expanded), **_replace(kwargs, expanded))
            if len(mine) == 1 and not others and name in EXPANDING:
                whole = func(*_replace(args, mine[0].value), **_replace(kwargs, mine[0].value))
                expanded = _expand(mine[0], [whole])
                if expanded is not None and whole.shape[whole.ndim - mine[0].ndim :] == mine[0].shape:
                    expanded = expanded.expand(whole.shape)
                    return expanded.clone() if name == "repeat" else expanded  # which may be written to
            if getattr(func, "__self__", None) is Tensor.data:  # which shares the memory, but no version
                mine[0].shown += 1
            args, kwargs = tree_map(_plain, (args, kwargs))
            return func(*args, **kwargs)


def _expand(one: StandIn, others: list[Tensor]) -> Tensor | None:
    """The stand-in with a leading sample dimension, or None where it would not simply be broadcast over samples."""
    source, whole = one.root(), others[0].shape
    if source is None or any(other.shape != whole for other in others) or not whole or _is_checkpointed():
        return None
    shape = source.shape
    if not shape and any(other.dtype != source.dtype for other in others):
        return None  # a number takes the precision of what it meets, which a tensor of one number a sample does not
    inner = shape[1:] if len(shape) == len(whole) and shape[0] == 1 else shape
    gap = len(whole) - 1 - len(inner)
    if gap < 0 or any(size not in (1, full) for size, full in zip(inner, whole[1 + gap :], strict=True)):
        return None
    rows = source.expand(whole[0], *inner)
    one.on_expand(rows)
    return one.along(rows.view(whole[0], *[1] * gap, *inner))


def _is_checkpointed() -> bool:
    """Whether activations are checkpointed here: they are computed once more then, without stand-ins, and have to be
    the same tensors. PyTorch before 2.8 does not tell."""
    hooks = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", lambda _: None)(True)
    return hooks is not None and hooks[0].__module__ == "torch.utils.checkpoint"


def _replace(tree: Any, value: Tensor) -> Any:
    return tree_map(lambda leaf: value if isinstance(leaf, StandIn) else leaf, tree)


def _plain(leaf: Any) -> Any:
    return leaf.value if isinstance(leaf, StandIn) else leaf


class StandingIn(TorchFunctionMode):
    """Has stand-ins take part in place of free parameters.

    Args:
        stand_ins: ``id(parameter)`` -> stand-in.
    """

    def __init__(self, stand_ins: Mapping[int, StandIn]):
        super().__init__()
        self._stand_ins = stand_ins

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if any(self._holds(value) for value in (*args, *kwargs.values())):
            args, kwargs = tree_map(lambda leaf: self._stand_ins.get(id(leaf), leaf), (args, kwargs))
        return func(*args, **kwargs)

    def _holds(self, value: Any) -> bool:
        if isinstance(value, tuple | list):
            return any(id(entry) in self._stand_ins for entry in value)
        return id(value) in self._stand_ins


def free_parameters(modules: Iterable[nn.Module], name_of: Mapping[int, str]) -> set[int]:
    """The ``id`` of each parameter that may be broadcast over samples.

    Not of those that PyTorch's own modules hold: what these do with them is no plain broadcast.

    Args:
        modules: where parameters may be held.
        name_of: ``id(parameter)`` -> name, of all that count.
    """
    known = ("torch.nn.", "ratpg.natgrad.")
    held = {
        id(parameter)
        for module in modules
        if type(module).__module__.startswith(known)
        for parameter in module._parameters.values()
    }
    return name_of.keys() - held


@contextmanager
def stand_ins(
    parameters: Mapping[str, nn.Parameter], free: Collection[int], on_expand: Callable[[str, Tensor], None]
) -> Iterator[None]:
    """Has free parameters take part as stand-ins for as long as the context is open.

    Args:
        parameters: name -> parameter.
        free: the ``id`` of those that stand-ins are for.
        on_expand: called with a parameter's name and each expansion ``[B, *shape]`` (a leading 1 dropped).
    """
    made = {id(p): StandIn.of(p, partial(on_expand, name)) for name, p in parameters.items() if id(p) in free}
    try:
        with StandingIn(made) if made else nullcontext():
            yield
    finally:
        for stand_in in made.values():  # what was computed of one may be kept, say as the width of the policy before
            stand_in.closed = True
