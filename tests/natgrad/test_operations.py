"""Where samples may change places from pass to pass, the factors are compared with autograd again."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchgen
from gymnasium import spaces
from torch import Tensor, nn

from ratpg.natgrad import AdvantageTransform, dense, operations
from ratpg.natgrad.structure import structure_of
from ratpg.rl.networks.recurrent import Sequences
from ratpg.rl.policy import ActorCritic
from ratpg.rl.spec import ActionBounds, Network, PolicySpec

from .oracle import relative_error


def _masked(logits: Tensor) -> Tensor:
    logits = 1 * logits
    logits[logits > 1] = -1e9
    return logits


def _halves(logits: Tensor, order: Tensor, select: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    first = (order < 6)[:, None].expand(-1, 3)
    return torch.cat([select(logits, first), select(logits, ~first)]).view(12, 3).square().sum(1)


def _one_of_two(order: Tensor) -> Tensor:
    """``[2, 12]``: some samples from the first row, the others from the second."""
    first = torch.arange(12) < 6 + order[0] % 2
    return torch.stack([first, ~first])


def _places(order: Tensor) -> Tensor:
    return torch.zeros(24, dtype=torch.bool).index_fill(0, torch.arange(12) * 2 + order[0] % 2, True)


def _rolled(logits: Tensor, by: int) -> Tensor:
    rows = torch.zeros_like(logits)
    rows[by:], rows[:by] = logits[: 12 - by], logits[12 - by :]
    return rows


def _swapped(logits: Tensor, swap: bool) -> Tensor:
    rows, ones = torch.zeros_like(logits), torch.ones_like(logits[:6])
    for half, start in ((logits[:6], 6 if swap else 0), (logits[6:], 0 if swap else 6)):
        rows[start : start + 6].addcmul_(half, ones)
    return rows.square().sum(1)


class _Reordered(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, order: Tensor) -> Tensor:
        return x[order]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.order = inputs[1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return torch.zeros_like(gradient).index_copy(0, ctx.order, gradient), None


PICKS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], bool]] = {
    "action by gather": (lambda logits, order: logits.gather(-1, order[:, None] % 3).squeeze(-1), False),
    "action by index": (lambda logits, order: logits[torch.arange(len(logits)), order % 3], False),
    "features by index": (lambda logits, order: logits[:, order % 3].sum(1), False),
    "tokens by index": (
        lambda logits, order: logits[torch.arange(12)[:, None].expand(-1, 2), order[:, None] % 3].sum(1),
        False,
    ),
    "action mask": (lambda logits, order: _masked(logits).log_softmax(-1)[..., 0], False),
    "last of features": (lambda logits, order: logits.T[-1], False),
    "least of heads": (lambda logits, order: torch.stack([logits, 2 * logits]).min(0).values.sum(1), False),
    "rows of a parameter": (
        lambda logits, order: F.embedding(order % 3, 2 * torch.ones(3, 3)).sum(1) * logits[:, 0],
        False,
    ),
    "largest": (lambda logits, order: logits.max(-1).values, False),
    "sorted features": (lambda logits, order: logits.sort(1).values[:, 0], False),
    "index": (lambda logits, order: logits[order].square().sum(1), True),
    "index_select": (lambda logits, order: logits.index_select(0, order).square().sum(1), True),
    "gather": (lambda logits, order: logits.gather(0, order[:, None].expand(-1, 3)).square().sum(1), True),
    "take": (lambda logits, order: logits.sum(1).take(order), True),
    "sort": (lambda logits, order: logits.sum(1).sort(0).values, True),
    "mask": (
        lambda logits, order: torch.cat([logits, logits])[torch.cat([order < 6, order >= 6])].square().sum(1),
        True,
    ),
    "index_put": (lambda logits, order: torch.zeros_like(logits).index_put((order,), logits).sum(1), True),
    "embedding": (lambda logits, order: F.embedding(order, logits).square().sum(1), True),
    "embedding_bag": (lambda logits, order: F.embedding_bag(order[:, None], logits).square().sum(1), True),
    "masked_select": (lambda logits, order: _halves(logits, order, torch.masked_select), True),
    "masked_scatter": (
        lambda logits, order: torch.zeros(24).double().masked_scatter(_places(order), logits.sum(1)).view(12, 2).sum(1),
        True,
    ),
    "slice": (lambda logits, order: _rolled(logits, int(order[0])).square().sum(1), True),
    "index of the second dimension": (lambda logits, order: logits.T[:, order].square().sum(0), True),
    "index behind a new dimension": (lambda logits, order: logits[None, order].square().sum((0, 2)), True),
    "index behind a row of padding": (
        lambda logits, order: torch.cat([logits.new_zeros(1, 3), logits])[order + 1].square().sum(1),
        True,
    ),
    "last of sequences, time first": (
        lambda logits, order: torch.stack([logits, 2 * logits])[order % 2, torch.arange(12)].square().sum(1),
        False,
    ),
    "mask of two dimensions": (
        lambda logits, order: torch.stack([logits.T, logits.T], 1)[:, _one_of_two(order)].square().sum(0),
        True,
    ),
    "mask that lets all through": (lambda logits, order: logits[order >= 0].square().sum(1), False),
    "classes as many as samples": (
        lambda logits, order: F.nll_loss(logits.repeat(1, 8), order, reduction="none"),
        False,
    ),
    "halves that change places": (lambda logits, order: _swapped(logits, bool(order[0] % 2)), True),
    "classes": (lambda logits, order: F.nll_loss(logits, order % 3, reduction="none"), False),
    "samples as classes": (
        lambda logits, order: F.nll_loss(logits.sum(1).expand(12, 12), order, reduction="none"),
        True,
    ),
    "of somebody's own": (lambda logits, order: _Reordered.apply(logits, order).square().sum(1), True),
}
"""How log-probabilities are picked from logits by an order -> whether samples may change places."""


REORDERINGS: dict[str, Callable[[Tensor, bool], Tensor]] = {
    "roll": lambda x, late: x.roll(3 if late else 0, 0),
    "flip": lambda x, late: x.flip(0 if late else 1),
    "unbind": lambda x, late: torch.stack(x.unbind(0)[:: -1 if late else 1]),
    "split": lambda x, late: torch.cat(x.split(6)[:: -1 if late else 1]),
    "transpose": lambda x, late: (x.mT if late else x).reshape(12, 3),
    "slice": lambda x, late: torch.cat([x[6:12], x[0:6]] if late else [x[0:6], x[6:12]]),
    "slice of every other": lambda x, late: torch.cat([x[::2], x[1::2]] if late else [x[:6], x[6:]]),
    "select": lambda x, late: torch.stack([x[i] for i in (range(11, -1, -1) if late else range(12))]),
    "sizes of a split": lambda x, late: torch.cat([x.split([5, 0, 7] if late else [5, 7, 0])[i] for i in (2, 0, 1)]),
    "slice of more": lambda x, late: F.pad(x, (0, 0, 1, 1))[2:14] if late else F.pad(x, (0, 0, 1, 1))[1:13],
    "pad": lambda x, late: F.pad(x, (0, 0, 2, -2) if late else (0, 0, 0, 0)),
    "how they are joined": lambda x, late: torch.stack(x.unbind(0)) * torch.stack(x.unbind(0)[:: -1 if late else 1]),
    "as_strided": lambda x, late: x.repeat(2, 1).as_strided((12, 3), (3, 1), 9 if late else 0),
}
"""What the code may come to do otherwise, with the same operations on tensors of the same shapes."""


@pytest.mark.parametrize("reordering", REORDERINGS)
def test_an_order_of_samples_that_the_code_changes_is_another_structure(reordering: str) -> None:
    actor = nn.Linear(4, 3).double()
    obs = torch.randn(12, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    transform = AdvantageTransform(actor)
    for late in (False, False, True):
        with transform.record():
            log_prob = REORDERINGS[reordering](actor(obs), late).square().sum(1)
        transform(log_prob, torch.ones_like(log_prob))
        h = dense.score_matrix(log_prob, list(actor.parameters()))
        assert relative_error(transform.gram(), h @ h.T) <= 1e-10


@pytest.mark.parametrize("pick", PICKS)
def test_where_the_data_decide_the_order_of_samples_each_pass_is_compared(
    pick: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute, moves = PICKS[pick]
    actor, compared = nn.Linear(4, 3).double(), []
    obs = torch.randn(12, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    transform = AdvantageTransform(actor)
    compare = transform._recorder._compare
    monkeypatch.setattr(transform._recorder, "_compare", lambda log_prob: compared.append(1) or compare(log_prob))
    for number in range(5):
        order = torch.randperm(12, generator=torch.Generator().manual_seed(number)) if number > 1 else torch.arange(12)
        with transform.record():
            log_prob = compute(actor(obs), order)
        transform(log_prob, torch.ones_like(log_prob))
        h = dense.score_matrix(log_prob, list(actor.parameters()))
        assert relative_error(transform.gram(), h @ h.T) <= 1e-10
    assert len(compared) == (5 if moves else 3)  # else at 1, 2 and 4


def test_an_index_of_nothing() -> None:
    actor, obs = nn.Linear(4, 3).double(), torch.randn(12, 4, dtype=torch.float64)
    transform = AdvantageTransform(actor)
    with transform.record():
        output = actor(obs)
        log_prob = output.square().sum(1) + output[torch.zeros(0, dtype=torch.int64)].sum()
    transform(log_prob, torch.ones_like(log_prob))
    h = dense.score_matrix(log_prob, list(actor.parameters()))
    assert relative_error(transform.gram(), h @ h.T) <= 1e-10


@pytest.mark.parametrize("name", sorted(operations.KEEPING | operations.PUTTING | operations.ALONG_ONE))
def test_every_operation_has_the_name_that_pytorch_gives_it(name: str) -> None:
    derivatives = Path(torchgen.__file__).parent / "packaged" / "autograd" / "derivatives.yaml"
    functions = re.findall(r"^- name: _?(\w+?)_?[.(]", derivatives.read_text(), re.MULTILINE)
    others = {"CopyBackwards", "CopySlices", "IndexPutImpl", "LogSigmoid", "SafeSoftmax", "_AffineBackward"}
    assert name in {"".join(word.title() for word in function.split("_")) for function in functions} | others


ACTIONS = [spaces.Box(-1.0, 1.0, (2,)), spaces.Discrete(3), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(3)]


@pytest.mark.parametrize("bounds", ["clip", "censor", "tanh"])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("lstm", [None, 3])
@pytest.mark.parametrize("space", ACTIONS, ids=str)
def test_no_policy_of_the_librarys_own_is_compared_at_each_pass(
    space: spaces.Space, lstm: int | None, shared: bool, bounds: ActionBounds
) -> None:
    options = {"action_bounds": bounds, "hidden": (8,), "lstm": lstm, "shared": shared}
    policy = ActorCritic(PolicySpec.from_spaces(spaces.Box(-1.0, 1.0, (5,)), space, **options))
    for kept in (torch.ones(4, 3, dtype=torch.bool), torch.arange(12).view(4, 3) > 0):
        steps, rows = torch.randn(4, 3, 5), int(kept.sum())
        states = {reader: torch.zeros(3, 6) for reader in ("actor", "critic")}
        distribution, _ = policy.actor_critic(Sequences(steps, ~kept, states, kept) if lstm else steps[kept])
        actions = distribution.sample(policy.draw_noise((rows,), torch.Generator().manual_seed(0)))
        log_prob = distribution.log_prob(actions)
        assert not structure_of(log_prob, {id(p): name for name, p in policy.named_parameters()}).moves


@pytest.mark.parametrize("network", ["nature-cnn", "impala"])
def test_no_policy_for_images_is_compared_at_each_pass(network: Network) -> None:
    policy = ActorCritic(
        PolicySpec.from_spaces(spaces.Box(0, 255, (3, 40, 40), np.uint8), spaces.Discrete(3), network=network)
    )
    distribution = policy.actor(torch.zeros(12, 3, 40, 40, dtype=torch.uint8))
    log_prob = distribution.log_prob(torch.zeros(12, dtype=torch.int64))
    assert not structure_of(log_prob, {id(p): name for name, p in policy.named_parameters()}).moves
