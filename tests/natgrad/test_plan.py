"""The plan says how each layer's share is found, what it holds and what it takes."""

import pytest
import torch
from torch import nn

from ratpg.natgrad import AdvantageTransform, CaptureError

from .cases import CASES
from .oracle import record


def _planned(actor: nn.Module, *shape: int) -> AdvantageTransform:
    transform = AdvantageTransform(actor)
    with transform.record():
        log_prob = actor(torch.randn(shape)).sin().flatten(1).sum(1)
    transform(log_prob, torch.ones_like(log_prob))
    return transform


def test_every_parameter_is_in_the_plan_once() -> None:
    for name in ("gpt", "impala_actor_critic", "owned_log_std", "gru"):
        transform, log_prob = record(CASES[name]())
        transform(log_prob, torch.ones_like(log_prob))
        names = [name for layer in transform.plan().layers for name in layer.parameters]
        assert sorted(names) == sorted(transform.parameters)


def test_counts_are_those_of_the_equations() -> None:
    # 100 samples of float32; K takes B^2 multiply-adds a column, half of them by symmetry.
    (outer,) = _planned(nn.Linear(6, 4), 100, 6).plan().layers
    assert (outer.factor, outer.bytes, outer.flops) == ("outer product", 4 * 100 * 10, 100**2 * 10)
    (contracted,) = _planned(nn.Linear(30, 40), 100, 2, 30).plan().layers
    assert (contracted.factor, contracted.bytes) == ("contraction of tokens", 4 * 100 * 2 * 70)
    assert contracted.flops == 200**2 * 70
    rows, bias = _planned(nn.Conv1d(3, 2, 2), 100, 3, 11).plan().layers
    assert (rows.factor, rows.bytes) == ("rows", 4 * 100 * 12)
    assert rows.flops == 2 * 100 * 10 * 12 + 100**2 * 12
    assert (bias.factor, bias.bytes, bias.flops) == ("rows", 4 * 100 * 2, 100**2 * 2)


def test_rows_that_are_larger_than_the_budget_are_formed_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    def plan() -> list[tuple[str, int]]:
        layers = _planned(nn.Conv2d(8, 8, 3), 100, 8, 8, 8).plan().layers
        return [(layer.factor, layer.bytes) for layer in layers]

    rows = 4 * 100 * 8 * 72
    assert plan() == [("rows", rows), ("rows", 4 * 100 * 8)]
    monkeypatch.setattr("ratpg.natgrad.tokens.ROW_BYTES", 0)
    assert plan() == [("rows", rows), ("rows", 4 * 100 * 8)]  # no more than twice the output gradients
    layers = _planned(nn.Conv2d(8, 8, 3), 100, 8, 6, 6).plan().layers
    images_and_gradients = 4 * 100 * 8 * (36 + 16)
    assert [(layer.factor, layer.bytes) for layer in layers] == [("rows, in slices", images_and_gradients)]


def test_it_prints_as_a_table_with_a_line_a_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    transform = _planned(nn.Sequential(nn.Linear(6, 4), nn.ConvTranspose1d(1, 1, 2).requires_grad_(False)), 10, 1, 6)
    lines = str(transform.plan()).splitlines()
    assert lines[0].split() == ["layer", "factor", "MB", "Mflop"]
    assert lines[1].startswith("0.weight, 0.bias  outer product")
    assert lines[-1].split()[0] == "together"
    assert repr(transform.plan()) == str(transform.plan())
    monkeypatch.setattr("ratpg.natgrad.capture.HELD_BYTES", -1)
    assert str(_planned(nn.Linear(6, 4), 10, 6).plan()).splitlines()[-1].startswith("one at a time")


def test_before_any_call_there_is_none() -> None:
    with pytest.raises(CaptureError, match="nothing recorded"):
        AdvantageTransform(nn.Linear(2, 1)).plan()
