"""The transform works in full precision and leaves the user's settings as they were."""

import copy

import pytest
import torch
from torch import Tensor, nn

from ratpg.natgrad import AdvantageTransform, dense
from ratpg.natgrad.capture import Recorder
from ratpg.natgrad.lower import LowerTriangle

from .cases import CASES
from .oracle import relative_error, solve

needs_new_settings = pytest.mark.skipif(
    not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="this PyTorch has allow_tf32 only"
)


@needs_new_settings
@pytest.mark.parametrize("chosen", ["tf32", "ieee"])
@pytest.mark.parametrize("kind", ["matrix products", "convolutions"])
@pytest.mark.parametrize("budget", [-1, 2**30], ids=["passing", "held"])
def test_the_settings_of_products_are_restored(
    budget: int, kind: str, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = torch.backends.cuda.matmul if kind == "matrix products" else torch.backends.cudnn.conv
    before, seen = backend.fp32_precision, []
    zeros = LowerTriangle.zeros

    def spy(*arguments):
        seen.append(backend.fp32_precision)
        return zeros(*arguments)

    monkeypatch.setattr(LowerTriangle, "zeros", spy)
    monkeypatch.setattr("ratpg.natgrad.capture.HELD_BYTES", budget)
    try:
        backend.fp32_precision = chosen
        solve(next(iter(CASES)), 0.1)
        assert backend.fp32_precision == chosen
    finally:
        backend.fp32_precision = before
    assert seen == ["ieee"]


def _log_prob(actor: nn.ModuleList, obs: Tensor, dtype: torch.dtype) -> Tensor:
    """Log-probabilities in a precision of their own, whatever the layers compute in."""
    first, recurrent, last = actor
    hidden, _ = recurrent(first(obs.to(first.weight.dtype)).tanh())
    return last(hidden.to(last.weight.dtype)).sum(1).to(dtype).log_softmax(-1)[:, 0]


@pytest.mark.parametrize(
    ("trunk", "head", "tolerance"),
    [
        (torch.bfloat16, torch.float32, 5e-2),
        (torch.float32, torch.bfloat16, 5e-2),
        (torch.bfloat16, torch.bfloat16, 5e-2),
        (torch.float64, torch.float32, 1e-5),
        (torch.float64, torch.float64, 1e-5),
    ],
)
def test_layers_of_any_precision_have_the_scores_of_double_precision(
    trunk: torch.dtype, head: torch.dtype, tolerance: float
) -> None:
    torch.manual_seed(0)
    layers = nn.Linear(5, 6).to(trunk), nn.LSTM(6, 6, batch_first=True).to(trunk), nn.Linear(6, 3).to(head)
    actor, obs, y = nn.ModuleList(layers), torch.randn(12, 4, 5), torch.randn(12)
    transform = AdvantageTransform(actor)
    with transform.record():
        log_prob = _log_prob(actor, obs, torch.float32)
    step = transform(log_prob, y)
    gram = transform.gram().double()
    carried = transform(log_prob, y, previous=step.direction, decay=0.5).direction
    assert {name: g.dtype for name, g in carried.items()} == {n: p.dtype for n, p in actor.named_parameters()}
    exact = copy.deepcopy(actor).double()
    h = dense.score_matrix(_log_prob(exact, obs, torch.float64), [*exact.parameters()])
    assert relative_error(gram, h @ h.T) <= tolerance
    wanted = dense.natural_gradient(h, y.double(), torch.ones(12, dtype=torch.float64), 0.1)
    found = torch.cat([g.double().flatten() for g in step.direction.values()])
    assert relative_error(found, wanted) <= tolerance


def test_a_coupling_of_a_few_percent_is_seen_under_autocast() -> None:
    torch.manual_seed(0)
    actor, obs = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3)), torch.randn(12, 6)

    def log_prob() -> Tensor:
        output = actor(obs)
        return (output + 0.05 * output.roll(1, 0)).float().square().sum(1)

    transform = AdvantageTransform(actor)
    with transform.record(), torch.autocast("cpu", dtype=torch.bfloat16):
        recorded = log_prob()
    transform(recorded, torch.ones(12))
    h = dense.score_matrix(log_prob(), [*actor.parameters()])
    assert relative_error(transform.gram(), h @ h.T) <= 2e-2


def test_under_autocast_the_step_is_that_without() -> None:
    name = next(iter(CASES))
    _, _, plain = solve(name, 0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=True):
        assert torch.is_autocast_enabled("cpu")
        _, _, step = solve(name, 0.1)
        assert torch.is_autocast_enabled("cpu")
    for parameter, g in plain.direction.items():
        torch.testing.assert_close(step.direction[parameter], g, rtol=0.05, atol=0.05 * float(g.abs().max()))


def test_batch_norm_in_eval_mode_below_log_probs_precision() -> None:
    torch.manual_seed(0)
    actor, obs = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)).eval(), torch.randn(9, 4)
    transform = AdvantageTransform(actor)
    with transform.record():
        log_prob = actor(obs).double().square().sum(1)
    transform(log_prob, torch.ones_like(log_prob))
    exact = copy.deepcopy(actor).double()
    h = dense.score_matrix(exact(obs.double()).square().sum(1), [*exact.parameters()])
    assert relative_error(transform.gram(), h @ h.T) <= 1e-5


@needs_new_settings
def test_factors_alone_are_found_in_full_precision_too() -> None:
    case, seen = CASES["conv1d_net"](), []
    recorder = Recorder.over(case.actor)
    with recorder.record():
        log_prob = case.log_prob()
    before = torch.backends.cudnn.conv.fp32_precision
    try:
        torch.backends.cudnn.conv.fp32_precision = "tf32"
        recorder.visit(log_prob, lambda _: seen.append(torch.backends.cudnn.conv.fp32_precision))
    finally:
        torch.backends.cudnn.conv.fp32_precision = before
    assert set(seen) == {"ieee"}
