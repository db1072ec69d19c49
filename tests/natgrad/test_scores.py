"""Scores that are found anew for each product are those that are held, over the whole table of cases."""

import pytest
import torch
from torch import nn

from ratpg.natgrad import AdvantageTransform, batched, dense
from ratpg.natgrad.plan import BATCHED
from ratpg.natgrad.scores import HeldScores, PassingScores
from ratpg.natgrad.workspace import Workspace

from .cases import CASES
from .oracle import flat, problem, record, relative_error, unflat


@pytest.fixture
def nothing_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ratpg.natgrad.capture.HELD_BYTES", -1)


@pytest.mark.parametrize("name", CASES)
def test_a_step_of_passing_scores_is_the_oracles(name: str, nothing_is_held: None) -> None:
    given = problem(name)
    h, y, w = given.scores, given.advantages, given.weights
    transform, log_prob = record(CASES[name](), damping=0.1)
    before = torch.randn(h.shape[1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    previous, other = unflat(before, transform.parameters), y.flip(0)
    step = transform(log_prob, y, w, previous=previous, decay=0.7, reference=other)

    assert isinstance(transform._of_last()[1], PassingScores)
    assert step.reference is not None
    assert list(step.direction) == list(step.reference) == list(transform.parameters)
    assert relative_error(flat(step.direction), dense.kaczmarz_step(h, y, w, 0.1, before, 0.7)) <= 1e-10
    assert relative_error(flat(step.reference), dense.natural_gradient(h, other, w, 0.1)) <= 1e-10
    residual = y - 0.7 * h @ before
    assert relative_error(step.advantage, dense.transformed_advantage(h, residual, w, 0.1)) <= 1e-10
    moved = h @ flat(step.direction)
    assert relative_error(step.predicted_kl, 0.5 * moved @ dense.covariance(w) @ moved) <= 1e-10
    assert relative_error(transform.gram(), h @ h.T) <= 1e-10
    assert sorted(n for layer in transform.plan().layers for n in layer.parameters) == sorted(transform.parameters)
    assert torch.equal(flat(previous), before)


@pytest.mark.parametrize("name", ["tanh_mlp", "conv1d_net", "gru", "embedding_of_few_ids"])
def test_held_and_passing_scores_have_the_same_products(name: str) -> None:
    transform, log_prob = record(CASES[name]())
    y, h = problem(name).advantages, problem(name).scores
    g = {n: torch.randn_like(p, requires_grad=False) for n, p in transform.parameters.items()}
    passing = PassingScores(transform._recorder, log_prob)
    held = HeldScores(transform._recorder.factors(log_prob), list(transform.parameters))
    for scores in (held, passing):
        system, moved = scores.products(y, g, Workspace())
        assert moved is not None
        assert relative_error(system.dense(), h @ h.T) <= 1e-10
        assert relative_error(moved, h @ flat(g)) <= 1e-10
        assert relative_error(scores.matvec(g), h @ flat(g)) <= 1e-10
        assert relative_error(flat(scores.rmatvec(y)), h.T @ y) <= 1e-10
    head, moved = held.head(3).products(y[:3], g, Workspace())
    assert relative_error(head.dense(), h[:3] @ h[:3].T) <= 1e-10
    layers = held.plan().layers
    assert passing.plan().layers == layers
    assert held.plan().bytes == sum(layer.bytes for layer in layers)
    batched = sum(layer.bytes for layer in layers if layer.factor == BATCHED)
    assert passing.plan().bytes == max([batched, *(layer.bytes for layer in layers)])
    assert (batched > 0) == (name == "gru")


@pytest.mark.parametrize("deferred", [False, True])
def test_the_gram_matrix_is_there_after_the_users_own_backward_pass(nothing_is_held: None, deferred: bool) -> None:
    given, case = problem("conv1d_net"), CASES["conv1d_net"]()
    transform = AdvantageTransform(case.actor, damping=0.0 if deferred else 0.1)  # zero: the jitter is added at once
    transform.deferred = deferred
    with transform.record():
        log_prob = case.log_prob()
    step = transform(log_prob, given.advantages, given.weights)
    (step.advantage * log_prob).mean().backward()
    with torch.no_grad():
        for parameter in transform.parameters.values():
            parameter.add_(1.0)
    assert relative_error(transform.gram(), given.scores @ given.scores.T) <= 1e-10


def test_curvature_rows_are_held_however_large(nothing_is_held: None, monkeypatch: pytest.MonkeyPatch) -> None:
    passes = []
    rows = batched._rows
    monkeypatch.setattr(batched, "_rows", lambda *arguments: passes.append(1) or rows(*arguments))
    case = CASES["gru"]()
    transform = AdvantageTransform(case.actor, damping=0.1, curvature_rows=5)
    with transform.record():
        log_prob = case.log_prob()
    transform(log_prob, torch.ones_like(log_prob))
    assert isinstance(transform._of_last()[1], HeldScores)
    assert len(passes) == 1  # of the fallback, which is the slowest part


def test_predictions_of_passing_scores_hold_without_damping(nothing_is_held: None) -> None:
    given = problem("more_samples_than_parameters")
    transform, log_prob = record(CASES["more_samples_than_parameters"](), damping=0.0)
    step = transform(log_prob, given.advantages, given.weights)
    assert step.solution.method != "cholesky"
    moved = given.scores @ flat(step.direction)
    assert relative_error(step.predicted_kl, 0.5 * moved @ dense.covariance(given.weights) @ moved) <= 1e-10


def test_layers_of_large_inputs_are_not_held() -> None:
    actor = nn.Sequential(nn.Conv2d(4, 2, 3), nn.Flatten(), nn.Linear(2 * 62 * 62, 2))
    transform = AdvantageTransform(actor)
    for samples, expected in ((64, HeldScores), (700, PassingScores)):
        with transform.record():
            log_prob = actor(torch.randn(samples, 4, 64, 64)).sum(1)
        step = transform(log_prob, torch.randn(samples))
        assert isinstance(transform._of_last()[1], expected)
        assert step.solution.method == "cholesky"
