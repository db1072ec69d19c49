"""Random networks, several passes of each through one transform: K, the advantage and the direction are the oracle's.

Each test has one kind of block in every network, among others that are drawn, so that each kind takes part in each run.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributions import Categorical, Normal

from ratpg.natgrad import AdvantageTransform, capture, dense

from .blocks import AROUND, LAYERS, PLAIN, Block, under_autocast, waves
from .oracle import flat, relative_error

# Where what a hooked layer is fed needs no gradient.
pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing")

DEFAULT, LONG = settings.get_profile("default"), settings.get_profile("slow")
FEW, SOME, MANY = (settings(p, max_examples=n) for p, n in ((DEFAULT, 2), (DEFAULT, 12), (LONG, 100)))
SMALLEST = 2
"""Samples: of two, each has one neighbour to be taken for."""


@dataclass(frozen=True)
class Tolerance:
    """Relative errors: of ``K``, and of a solution per unit of the system's condition."""

    gram: float
    solution: float


TOLERANCES = {torch.float64: Tolerance(1e-10, 1e-13), torch.float32: Tolerance(1e-4, 2e-6)}
HALF = Tolerance(0.1, 0.1)
"""With layers in bfloat16."""


# --- heads ------------------------------------------------------------------------------------------------------------

Head = Callable[[Tensor, nn.Parameter], Tensor]
"""(what the blocks make of the batch ``[B, W]``, a free parameter ``[W]``) -> ``log_prob [B]``."""


def _normal(mean: Tensor, scale: Tensor | float) -> Tensor:
    return Normal(mean, scale).log_prob(waves(*mean.shape, like=mean)).sum(-1)


PLAIN_HEADS: dict[str, Head] = {
    "squares": lambda h, p: -(h - waves(*h.shape, like=h)).square().sum(1),
    "categorical": lambda h, p: Categorical(logits=h).log_prob(torch.arange(len(h)) % h.shape[1]),
    "log-softmax of a part": lambda h, p: h.log_softmax(-1)[:, 0] + h[:, 1].sin(),
}
FREE_HEADS: dict[str, Head] = {
    "exp": lambda h, p: _normal(h, p.exp()),
    "exp, expand": lambda h, p: _normal(h, p.exp().expand(*h.shape)),
    "expand_as, exp": lambda h, p: _normal(h, p.expand_as(h).exp()),
    "zeros plus": lambda h, p: _normal(h, (torch.zeros_like(h) + p).exp()),
    "repeat": lambda h, p: _normal(h, p.repeat(len(h), 1).exp()),
    "unsqueeze": lambda h, p: _normal(h, p.unsqueeze(0).exp()),
    "softplus, clamp": lambda h, p: _normal(h, F.softplus(p).clamp(0.1, 5.0)),
    "broadcast_to": lambda h, p: _normal(h, p.broadcast_to(h.shape).exp()),
    "a number": lambda h, p: _normal(h, p[0].exp()),
    "each sample's own": lambda h, p: _normal(h, (p * h[:, :1].detach().sin()).exp()),
}
HEADS = PLAIN_HEADS | FREE_HEADS


# --- networks ---------------------------------------------------------------------------------------------------------


class Chain(nn.Module):
    """Blocks one after the other.

    Args:
        blocks: these.
        head: what makes ``log_prob``.
        log_std: ``[W]``, where the head has a free parameter.
    """

    def __init__(self, blocks: list[Block], head: Head, log_std: Tensor | None):
        super().__init__()
        self.blocks, self.head = nn.ModuleList(blocks), head
        self.log_std = None if log_std is None else nn.Parameter(log_std)

    def prepare(self, turn: int) -> None:
        """Before each pass."""
        for module in self.modules():
            if isinstance(module, Block):
                module.prepare(turn)

    def forward(self, h: Tensor, turn: int) -> Tensor:
        for block in self.blocks:
            h = block(h, turn)
        return self.head(h, self.log_std)


@dataclass(frozen=True)
class Example:
    """A network, how it is recorded, and what of the transform is asked.

    Attributes:
        actor: what `AdvantageTransform` is given.
        chain: the network.
        width: ``W``.
        sizes: ``B`` of each pass.
        dtype: of everything.
        damping: λ.
        spread: standard deviation of the logarithm of the weights.
        decay: of Kaczmarz; None for a plain step.
        rows: share of the samples whose curvature counts; None for all.
        held: whether factors are held.
        seed: of the data.
    """

    actor: Any
    chain: Chain
    width: int
    sizes: list[int]
    dtype: torch.dtype
    damping: float
    spread: float
    decay: float | None
    rows: int | None
    held: bool
    seed: int


@st.composite
def examples(draw: st.DrawFn, kind: str, dtype: torch.dtype, half: bool = False) -> Example:
    """Examples with a kind of block, or of head, and up to two more; with ``half`` the block is under autocast."""

    def pick(*options: Any) -> Any:
        return draw(st.sampled_from(options))

    def block(name: str) -> Block:
        if name in AROUND:
            return AROUND[name](pick, block(pick(*LAYERS)))
        return (LAYERS | PLAIN)[name](pick, width)

    width, seed = pick(2, 3, 4, 5), draw(st.integers(0, 2**20))
    names = draw(st.lists(st.sampled_from([*LAYERS, *PLAIN, *AROUND]), max_size=2))
    if kind not in HEADS:
        names = [kind, *names]
    if kind in HEADS or kind in PLAIN or pick(True, False):  # what has no parameters needs some before it
        names = ["linear", *names]
    head = kind if kind in HEADS else pick(*HEADS)
    whole, spread = pick(True, True, False), pick(0.0, 0.3, 1.0, 6.0)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        blocks = [block(name) for name in names]
        if half:
            blocks.insert(0, under_autocast(block(pick(*LAYERS))))
        chain = Chain(blocks, HEADS[head], torch.randn(width) * 0.3 if head in FREE_HEADS else None).to(dtype)
    beside = head in FREE_HEADS and pick(True, False)
    return Example(
        actor=[chain.blocks, chain.log_std] if beside else chain,
        chain=chain,
        width=width,
        sizes=[max(SMALLEST, pick(width, width + 1, width + 2, width + 4, 2 * width)) for _ in range(3)],
        dtype=dtype,
        damping=pick(1e-3, 0.1, 1.0) if dtype == torch.float64 else pick(1.0, 10.0),
        spread=spread,
        decay=pick(None, 0.0, 0.5, 1.0),
        rows=None if whole else pick(2, 4, 20),
        held=pick(True, False),
        seed=seed,
    )


# --- the comparison ---------------------------------------------------------------------------------------------------


def run(example: Example, compare: Callable[..., dict[str, Tensor]]) -> None:
    """Several passes of one transform, each compared with the oracle."""
    transform = AdvantageTransform(example.actor, example.damping, example.rows)
    generator = torch.Generator().manual_seed(example.seed)
    previous: dict[str, Tensor] | None = None
    with pytest.MonkeyPatch.context() as patch:
        if not example.held:
            patch.setattr(capture, "HELD_BYTES", 0)
        for turn, size in enumerate(example.sizes):
            x = torch.randn(size, example.width, generator=generator, dtype=example.dtype)
            y, other, log_ratio = torch.randn(3, size, generator=generator, dtype=example.dtype)
            example.chain.prepare(turn)
            with transform.record():
                log_prob = example.chain(x, turn)
            previous = compare(example, transform, log_prob, y, other, (example.spread * log_ratio).exp(), previous)


def whole(
    example: Example,
    transform: AdvantageTransform,
    log_prob: Tensor,
    y: Tensor,
    other: Tensor,
    w: Tensor,
    previous: dict[str, Tensor] | None,
) -> dict[str, Tensor]:
    """``K``, the advantage, the direction and a solution of two columns; returns the direction."""
    allowed, damping = TOLERANCES[example.dtype], example.damping
    h = _scores(transform, log_prob)
    carried = None if example.decay is None else previous
    step = transform(log_prob, y, w, previous=carried, decay=example.decay or 0.0)
    gram = transform.gram().double()
    y, other, w = y.double(), other.double(), w.double()
    root = (w / len(w)).sqrt()
    system = root[:, None] * (h @ h.T) * root
    if _holds_factors(example, y):
        assert relative_error(gram, h @ h.T) <= allowed.gram
    else:  # it comes from λI + SKS, of which small weights leave few digits
        assert (root[:, None] * gram * root - system).norm() <= allowed.gram * (system.norm() + damping)

    condition = 1 + float(torch.linalg.matrix_norm(system, 2)) / damping
    limit = max(10 * allowed.gram, allowed.solution * condition)
    decay = example.decay if example.decay is not None and carried is not None else 0.0
    old = torch.zeros(h.shape[1]).double() if carried is None else flat(carried).double()
    if example.rows is None or example.rows >= len(y):
        advantage = dense.transformed_advantage(h, y - decay * h @ old, w, damping)
        assert relative_error(root * step.advantage.double(), root * advantage) <= limit
        direction = dense.kaczmarz_step(h, y, w, damping, old, decay)
        columns = torch.stack([y, other], 1)
        found = transform.solve(log_prob, columns.to(log_prob.dtype), w.to(log_prob.dtype)).x
        expected = torch.stack([dense.transformed_advantage(h, column, w, damping) for column in columns.T], 1)
        assert relative_error(root[:, None] * found.double(), root[:, None] * expected) <= limit
    else:
        few = h[: example.rows] * (w[: example.rows, None] / example.rows).sqrt()
        fisher = damping * torch.eye(h.shape[1]).double() + few.T @ few
        direction = decay * old + torch.linalg.solve(fisher, h.T @ (w / len(w) * (y - decay * h @ old)))
    assert relative_error(flat(step.direction), direction) <= limit
    return step.direction


def roughly(
    example: Example,
    transform: AdvantageTransform,
    log_prob: Tensor,
    y: Tensor,
    other: Tensor,
    w: Tensor,
    previous: dict[str, Tensor] | None,
) -> dict[str, Tensor]:
    """``K``, and a direction that is ``HᵀΣ`` times the advantage, in proportion to the terms of that product."""
    h = _scores(transform, log_prob)
    step = transform(log_prob, y)
    assert relative_error(transform.gram(), h @ h.T) <= HALF.gram
    if example.rows is None or example.rows >= len(y):
        terms = h * step.advantage[:, None].double() / len(y)
        assert float((flat(step.direction) - terms.sum(0)).norm()) <= HALF.solution * float(terms.norm())
    return step.direction


def _scores(transform: AdvantageTransform, log_prob: Tensor) -> Tensor:
    """``H`` by one backward pass a row, in float64; not zero."""
    h = dense.score_matrix(log_prob, list(transform.parameters.values())).double()
    assume(float(h.norm()) > 1e-3)
    return h


def _holds_factors(example: Example, y: Tensor) -> bool:
    return example.held or (example.rows is not None and example.rows < len(y))


KINDS = [*LAYERS, *PLAIN, *AROUND, *HEADS]


@pytest.mark.parametrize("kind", KINDS)
@FEW
@given(data=st.data())
def test_of_random_networks(kind: str, data: st.DataObject) -> None:
    run(data.draw(examples(kind, torch.float64)), whole)


@SOME
@given(data=st.data())
def test_of_random_networks_in_single_precision(data: st.DataObject) -> None:
    run(data.draw(examples(data.draw(st.sampled_from(KINDS)), torch.float32)), whole)


@SOME
@given(data=st.data())
def test_of_random_networks_with_layers_in_half_precision(data: st.DataObject) -> None:
    run(data.draw(examples(data.draw(st.sampled_from(KINDS)), torch.float32, half=True)), roughly)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@MANY
@given(data=st.data())
def test_of_many_random_networks(kind: str, data: st.DataObject) -> None:
    run(data.draw(examples(kind, torch.float64)), whole)


@pytest.mark.slow
@pytest.mark.parametrize(("half", "compare"), [(False, whole), (True, roughly)], ids=["single", "half"])
@LONG
@given(data=st.data())
def test_of_many_random_networks_in_few_digits(half: bool, compare: Any, data: st.DataObject) -> None:
    run(data.draw(examples(data.draw(st.sampled_from(KINDS)), torch.float32, half)), compare)
