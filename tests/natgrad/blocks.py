"""Pieces of which random networks are composed: each maps a batch ``[B, W]`` to ``[B, W]``, whatever ``B`` is.

Some take another way at each turn, with the same shapes and operations. Whoever trusts the look of an earlier pass is
wrong in a later one.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.checkpoint import checkpoint

from ratpg.natgrad import Linear, PerSampleParameter

Pick = Callable[..., Any]
"""``pick(a, b, ...)`` is one of its arguments."""

Compute = Callable[[Any, Tensor, int], Tensor]
"""(block, batch ``[B, W]``, turn) -> ``[B, W]``."""


class Block(nn.Module):
    """``[B, W] -> [B, W]`` by a function of the block, the batch and the turn.

    Args:
        compute: that function.
        parts: what it finds in the block: modules, and tensors that become free parameters.
    """

    def __init__(self, compute: Compute, **parts: nn.Module | Tensor):
        super().__init__()
        self.compute = compute
        self.prepare: Callable[[int], None] = lambda turn: None
        for name, part in parts.items():
            setattr(self, name, nn.Parameter(part) if isinstance(part, Tensor) else part)

    def forward(self, h: Tensor, turn: int) -> Tensor:
        return self.compute(self, h, turn)


def waves(*shape: int, like: Tensor) -> Tensor:
    """Fixed numbers that look random."""
    count = torch.Size(shape).numel()
    return (12.9898 * torch.arange(1.0, count + 1, dtype=torch.float64)).sin().view(shape).to(like)


def tokens(h: Tensor) -> Tensor:
    """``[B, W] -> [B, W, 2]``: two features of each entry."""
    return torch.stack([h, h.sin() + 0.3], -1)


# --- layers -----------------------------------------------------------------------------------------------------------

LAYERS: dict[str, Callable[[Pick, int], Block]] = {}
PLAIN: dict[str, Callable[[Pick, int], Block]] = {}
AROUND: dict[str, Callable[[Pick, Block], Block]] = {}


def layer(build: Callable[[Pick, int], Block]) -> Callable[[Pick, int], Block]:
    LAYERS[build.__name__] = build
    return build


def plain(build: Callable[[Pick, int], Block]) -> Callable[[Pick, int], Block]:
    PLAIN[build.__name__] = build
    return build


def around(build: Callable[[Pick, Block], Block]) -> Callable[[Pick, Block], Block]:
    AROUND[build.__name__] = build
    return build


@layer
def linear(pick: Pick, w: int) -> Block:
    return Block(lambda self, h, _: self.of(h), of=pick(nn.Linear, Linear)(w, w, bias=pick(True, False)))


@layer
def wide(pick: Pick, w: int) -> Block:
    """Its second weight is compared by a sketch."""
    return Block(lambda self, h, _: self.b(self.a(h).tanh()), a=nn.Linear(w, 20), b=nn.Linear(20, w))


@layer
def conv1d(pick: Pick, w: int) -> Block:
    options = {"kernel_size": pick(1, 2, 3), "stride": pick(1, 2), "padding": pick(1, 2), "dilation": pick(1, 2)}
    groups, bias, mode = pick(1, 2), pick(True, False), pick("zeros", "circular", "reflect", "replicate")
    if w <= 2 or options["dilation"] * (options["kernel_size"] - 1) > w:
        options |= {"padding": 1, "dilation": 1}
    conv = nn.Conv1d(2, 4, groups=groups, bias=bias, padding_mode=mode, **options)
    return Block(lambda self, h, _: h + self.conv(tokens(h).mT).tanh().mean((1, 2))[:, None] * h.cos(), conv=conv)


@layer
def conv2d(pick: Pick, w: int) -> Block:
    conv = nn.Conv2d(1, 2, (pick(1, 2), 2), stride=(1, pick(1, 2)), padding=pick(0, 1), bias=pick(True, False))
    return Block(
        lambda self, h, _: h * self.conv(h[:, None, :, None] * h[:, None, None]).sin().sum((1, 2, 3))[:, None],
        conv=conv,
    )


@layer
def embedding(pick: Pick, w: int) -> Block:
    table = nn.Embedding(5, w, padding_idx=pick(None, 0, 3))
    return Block(lambda self, h, _: h + (self.table(_ids(h)) * h[..., None].cos()).sum(1), table=table)


@layer
def embedding_bag(pick: Pick, w: int) -> Block:
    table = nn.EmbeddingBag(5, w, mode=pick("sum", "mean", "max"), padding_idx=pick(None, 2))
    return Block(lambda self, h, _: h + self.table(_ids(h)), table=table)


def _ids(h: Tensor) -> Tensor:
    return (h.detach() * 3).long().remainder(5)


@layer
def norm(pick: Pick, w: int) -> Block:
    made = pick(lambda: nn.LayerNorm(w, bias=pick(True, False)), lambda: nn.RMSNorm(w), lambda: nn.GroupNorm(1, w))()
    return Block(lambda self, h, _: h.cos() + self.norm(h), norm=made)


@layer
def norm_of_channels(pick: Pick, w: int) -> Block:
    made = pick(lambda: nn.GroupNorm(2, 4), lambda: nn.BatchNorm1d(4).eval(), lambda: nn.GroupNorm(4, 4))()
    return Block(
        lambda self, h, _: (
            h + self.norm(torch.cat([tokens(h), tokens(h).cos()], -1).mT).mul(waves(4, w, like=h)).sum(1)
        ),
        norm=made,
    )


@layer
def attention(pick: Pick, w: int) -> Block:
    first = pick(True, False)

    def compute(self: Any, h: Tensor, _: int) -> Tensor:
        x = tokens(h) if first else tokens(h).transpose(0, 1)
        y = self.of(x, x, x, need_weights=False)[0]
        return h + (y if first else y.transpose(0, 1)).sum(-1)

    return Block(compute, of=nn.MultiheadAttention(2, pick(1, 2), batch_first=first))


@layer
def recurrent(pick: Pick, w: int) -> Block:
    return Block(lambda self, h, _: h + self.of(tokens(h))[0].sum(-1), of=nn.GRU(2, 3, batch_first=True))


@layer
def unrolled(pick: Pick, w: int) -> Block:
    def compute(self: Any, h: Tensor, turn: int) -> Tensor:
        state = h
        for _ in range(1 + turn % 3):
            state = self.of(state + h).tanh()
        return state

    return Block(compute, of=nn.Linear(w, w))


@layer
def of_each_token(pick: Pick, w: int) -> Block:
    """Samples first, time first, and flattened either way, in turn or always."""
    ways: list[Callable[[nn.Linear, Tensor], Tensor]] = [
        lambda of, x: of(x),
        lambda of, x: of(x.transpose(0, 1)).transpose(0, 1),
        lambda of, x: of(x.flatten(0, 1)).view(*x.shape[:2], -1),
        lambda of, x: of(x.transpose(0, 1).flatten(0, 1)).view(x.shape[1], x.shape[0], -1).transpose(0, 1),
    ]
    start, step = pick(0, 1, 2, 3), pick(0, 1)
    return Block(
        lambda self, h, turn: h + ways[(start + step * turn) % 4](self.of, tokens(h)).tanh().sum(-1), of=nn.Linear(2, 3)
    )


@layer
def in_two_parts(pick: Pick, w: int) -> Block:
    cut = pick(1, 2, 3)
    return Block(lambda self, h, _: torch.cat([self.of(h[:cut]), self.of(h[cut:])]), of=nn.Linear(w, w))


@layer
def used_again(pick: Pick, w: int) -> Block:
    again: Compute = pick(
        lambda self, h, _: F.linear(h, self.of.weight),
        lambda self, h, _: torch.einsum("bi,oi->bo", h, self.of.weight),
        lambda self, h, _: self.of(h) @ self.of.weight,
        lambda self, h, _: h + self.of.bias * h[:1].detach(),
        lambda self, h, _: self.of(h.flip(0)),
    )
    opens = pick(0, 1, 2)
    return Block(
        lambda self, h, turn: self.of(h).sin() + float(turn >= opens) * again(self, h, turn), of=nn.Linear(w, w)
    )


@layer
def with_other_values(pick: Pick, w: int) -> Block:
    def compute(self: Any, h: Tensor, turn: int) -> Tensor:
        if turn % 2 == shut:
            return self.of(h)
        values = {name: p + p.square() for name, p in self.of.named_parameters()}
        return functional_call(self.of, values, (h,)) + self.of(h).sin()

    shut = pick(0, 1, 2)
    return Block(compute, of=nn.Linear(w, w))


@layer
def with_a_forward_of_its_own(pick: Pick, w: int) -> Block:
    block, since = Block(lambda self, h, _: self.of(h), of=nn.Linear(w, w)), pick(0, 1, 2)
    use: Compute = pick(
        lambda of, h, _: F.linear(h, of.weight.square(), of.bias.sin()),
        lambda of, h, _: F.linear(h.flip(0), of.weight, of.bias),
        lambda of, h, _: F.linear(h @ of.weight, of.weight, of.bias),
    )

    def prepare(turn: int) -> None:
        if turn == since:
            block.of.forward = lambda h: use(block.of, h, turn)

    block.prepare = prepare
    return block


@layer
def with_a_hook(pick: Pick, w: int) -> Block:
    parameter, factor = pick("weight", "bias"), pick(0.5, -1.0, 3.0)
    block = Block(lambda self, h, _: self.of(h), of=nn.Linear(w, w))
    if pick(True, False):
        getattr(block.of, parameter).register_hook(lambda g: g * factor)
    else:
        block.of.register_full_backward_hook(
            lambda module, inputs, outputs: tuple(g if g is None else factor * g for g in inputs)
        )
    return block


@layer
def partly_frozen(pick: Pick, w: int) -> Block:
    block = Block(lambda self, h, _: self.b(self.a(h).tanh()), a=nn.Linear(w, 3), b=nn.Linear(3, w))
    getattr(pick(block.a, block.b), pick("weight", "bias")).requires_grad_(False)
    return block


@layer
def parametrised(pick: Pick, w: int) -> Block:
    return Block(lambda self, h, _: self.of(h), of=weight_norm(nn.Linear(w, w)))


@layer
def unknown(pick: Pick, w: int) -> Block:
    return Block(lambda self, h, _: self.of(h, h), of=nn.Bilinear(w, w, w))


@layer
def tied(pick: Pick, w: int) -> Block:
    block = Block(lambda self, h, _: self.b(self.a(h).sin()), a=nn.Linear(w, w), b=nn.Linear(w, w))
    setattr(block.b, name := pick("weight", "bias"), getattr(block.a, name))
    return block


@layer
def free(pick: Pick, w: int) -> Block:
    use: Compute = pick(
        lambda self, h, _: h * self.p.exp(),
        lambda self, h, _: h + self.p.tanh().expand(len(h), w),
        lambda self, h, _: h * (self.p + 1).repeat(len(h), 1),
        lambda self, h, _: h * self.p.broadcast_to(h.shape).sin() + h.flip(0),
        lambda self, h, _: h + self.p.view(1, -1).square(),
        lambda self, h, _: h * torch.outer(h[:, 0].cos(), self.p),
        lambda self, h, turn: (h + self.p).roll(turn, 0) + (h * self.p).roll(1, turn % 2),
        lambda self, h, turn: h * F.softplus(self.p) + (turn % 2) * self.p.flip(0).sum(),
        lambda self, h, _: torch.where(h > 0, self.p, h),
        lambda self, h, _: (h.T + self.p[0] * h.T).T,
    )
    return Block(use, p=torch.randn(w))


@layer
def free_of_each_sample(pick: Pick, w: int) -> Block:
    shown = pick(lambda h: h, lambda h: h.repeat(2, 1))
    return Block(lambda self, h, _: h.sin() * self.of(shown(h))[-len(h) :], of=PerSampleParameter(torch.randn(w)))


# --- no parameters ----------------------------------------------------------------------------------------------------


def _in_turn(pick: Pick, *ways: Callable[[Tensor], Tensor]) -> Block:
    """One way always, or all of them in turn."""
    start, step = pick(*range(len(ways))), pick(1, 0)
    return Block(lambda self, h, turn: ways[(start + step * turn) % len(ways)](h))


@plain
def activation(pick: Pick, w: int) -> Block:
    return _in_turn(pick, torch.tanh, torch.sin, F.softplus, F.gelu, F.elu)


@plain
def padded(pick: Pick, w: int) -> Block:
    zero = lambda h: h.new_zeros(1, w)  # noqa: E731
    return _in_turn(pick, lambda h: torch.cat([h, zero(h)])[:-1], lambda h: torch.cat([zero(h), h])[:-1])


@plain
def sliced(pick: Pick, w: int) -> Block:
    more = pick(1, 2, 3)
    ways = [lambda h, n=n: F.pad(h, (0, 0, more, 0))[n : n + len(h)] for n in (more, 0, 1)]
    return _in_turn(pick, *ways)


@plain
def multiplied(pick: Pick, w: int) -> Block:
    return _in_turn(pick, lambda h: h @ waves(w, w, like=h), lambda h: waves(len(h), len(h), like=h) @ h)


@plain
def pooled(pick: Pick, w: int) -> Block:
    pool = pick(F.avg_pool1d, F.max_pool1d)
    return _in_turn(pick, lambda h: pool(h[None], 3, 1, 1)[0], lambda h: pool(h.T[None], 3, 1, 1)[0].T)


@plain
def viewed(pick: Pick, w: int) -> Block:
    return _in_turn(
        pick,
        lambda h: h.reshape(-1).view(w, -1).T,
        lambda h: h.T.reshape(h.shape),
        lambda h: h.reshape(1, len(h), w).permute(1, 0, 2).flatten(1),
        lambda h: h.reshape(w, -1).flip(0).reshape(h.shape),
    )


@plain
def moved(pick: Pick, w: int) -> Block:
    axis = pick(0, 1)
    return _in_turn(
        pick,
        lambda h: h.flip(axis),
        lambda h: h.roll(1, axis),
        lambda h: h.flip(1 - axis),
        lambda h: h.roll(1, 1 - axis),
    )


@plain
def stacked(pick: Pick, w: int) -> Block:
    return _in_turn(pick, lambda h: torch.stack([h, h.sin()]).sum(0), lambda h: torch.stack([h, h.flip(0)], 1)[:, 1])


@plain
def indexed(pick: Pick, w: int) -> Block:
    return _in_turn(
        pick,
        lambda h: h[torch.arange(len(h))],
        lambda h: h[(torch.arange(len(h)) + 1) % len(h)],
        lambda h: h.gather(0, h.detach().argsort(0)),
        lambda h: torch.zeros_like(h).index_add(0, torch.arange(len(h)) // 2, h) + h,
    )


@plain
def masked(pick: Pick, w: int) -> Block:
    return _in_turn(
        pick,
        lambda h: h * (h > 0),
        lambda h: h.masked_fill(h.abs() > 1, 0.5),
        lambda h: torch.where(h > 0, h, h.roll(1, 0)),
    )


@plain
def coupled(pick: Pick, w: int) -> Block:
    """By a gate that is shut in some turns."""
    opens = pick(0, 1, 2)
    mix = pick(
        lambda h: h.mean(0).expand_as(h),
        lambda h: h.softmax(0),
        lambda h: h.cumsum(0),
        lambda h: h / (1 + h.norm()),
        lambda h: h.detach().sum(0) * h.amax(0),
    )
    return Block(lambda self, h, turn: h + float(turn >= opens) * mix(h))


@plain
def with_a_leaf(pick: Pick, w: int) -> Block:
    """An activation that requires a gradient, though nobody trains it."""
    return Block(lambda self, h, _: h + waves(*h.shape, like=h).requires_grad_())


@plain
def hooked(pick: Pick, w: int) -> Block:
    hook = pick(lambda g: 2 * g, lambda g: g + g.mean(0), lambda g: g.flip(0))

    def compute(self: Any, h: Tensor, turn: int) -> Tensor:
        h = h + 0.1
        if h.requires_grad:
            h.register_hook(hook)
        return h

    return Block(compute)


# --- around another block ---------------------------------------------------------------------------------------------


def _wrapped(inner: Block, compute: Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]) -> Block:
    return Block(lambda self, h, turn: compute(lambda x: self.inner(x, turn), h), inner=inner)


@around
def residual(pick: Pick, inner: Block) -> Block:
    return _wrapped(inner, lambda of, h: h + of(h))


@around
def twice(pick: Pick, inner: Block) -> Block:
    return _wrapped(inner, lambda of, h: of(of(h).tanh()))


@around
def checkpointed(pick: Pick, inner: Block) -> Block:
    return _wrapped(inner, lambda of, h: checkpoint(of, h, use_reentrant=False))


@around
def sorted_by_a_key(pick: Pick, inner: Block) -> Block:
    def compute(of: Callable[[Tensor], Tensor], h: Tensor) -> Tensor:
        order = h[:, 0].detach().argsort()
        return of(h[order])[order.argsort()]

    return _wrapped(inner, compute)


@around
def among_more_samples(pick: Pick, inner: Block) -> Block:
    """Others of the same number in one call, after them or before."""
    after = pick(True, False)

    def compute(of: Callable[[Tensor], Tensor], h: Tensor) -> Tensor:
        return of(torch.cat([h, h + 1]))[: len(h)] if after else of(torch.cat([h + 1, h]))[len(h) :]

    return _wrapped(inner, compute)


@around
def among_a_few_more(pick: Pick, inner: Block) -> Block:
    n, start = pick(1, 2), pick(0, 1)
    return _wrapped(inner, lambda of, h: of(F.pad(h, (0, 0, n, n)))[n + start - 1 : n + start - 1 + len(h)])


@around
def only_of_some(pick: Pick, inner: Block) -> Block:
    """A part of the samples, which the data pick."""

    def compute(of: Callable[[Tensor], Tensor], h: Tensor) -> Tensor:
        chosen = (h[:, 0] > h[:, 0].median()).nonzero()[:, 0]
        return h.index_add(0, chosen, of(h[chosen]))

    return _wrapped(inner, compute)


@around
def with_an_input_that_requires_a_gradient(pick: Pick, inner: Block) -> Block:
    return _wrapped(inner, lambda of, h: of(h if h.requires_grad else h.clone().requires_grad_()))


def under_autocast(inner: Block) -> Block:
    """Not among the others: it has few digits."""

    def compute(of: Callable[[Tensor], Tensor], h: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return of(h).float()

    return _wrapped(inner, compute)
