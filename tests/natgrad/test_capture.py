"""What is recorded: hooks come and go, the fast path is taken where it is right, and only there."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ratpg.natgrad import AdvantageTransform, capture, dense
from ratpg.natgrad.factors import DenseFactor, OuterFactor
from ratpg.natgrad.tokens import TokenFactor

from .case import gaussian
from .cases import CASES, Case
from .oracle import flat, problem, record, relative_error

FAST = {
    "tanh_mlp": OuterFactor,
    "inplace_relu_mlp": OuterFactor,
    "frozen_weight_trainable_bias": OuterFactor,
    "residual_mlp": OuterFactor,
    "linear_called_by_keyword": OuterFactor,
    "shared_trunk": OuterFactor,
    "shared_trunk_in_two_modules": (OuterFactor, TokenFactor),
    "mixture_of_heads": OuterFactor,
    "one_sample": OuterFactor,
    "two_panels": OuterFactor,
    "few_tokens": TokenFactor,
    "many_tokens": TokenFactor,
    "grid_of_patches": TokenFactor,
    "folded_tokens": TokenFactor,
    "module_called_twice": TokenFactor,
    "module_called_three_times": (OuterFactor, TokenFactor),
    "tied_linears": (OuterFactor, TokenFactor),
    "owned_log_std": (OuterFactor, DenseFactor),
    "owned_scalar_log_std_in_bounds": (OuterFactor, DenseFactor),
    "free_positions_and_scales": (TokenFactor, DenseFactor),
    "per_sample_log_std": (OuterFactor, DenseFactor),
    "per_sample_parameter_called_twice": (OuterFactor, DenseFactor),
}


@pytest.mark.parametrize("name", FAST)
def test_these_cases_never_take_the_batched_path(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "batched_factors", lambda *_: pytest.fail("took the batched path"))
    transform, log_prob = record(CASES[name]())
    assert all(isinstance(factor, FAST[name]) for factor in transform._recorder.factors(log_prob))


def test_batched_rows_do_not_depend_on_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    transform, log_prob = record(CASES["conv2d_net"]())
    y = torch.ones_like(log_prob)
    transform(log_prob, y)
    whole = transform.gram()
    monkeypatch.setattr("ratpg.natgrad.batched.VJP_CHUNK_BYTES", 1)
    transform(log_prob, y)
    assert relative_error(transform.gram(), whole) <= 1e-12


def test_a_tied_weight_leaves_the_other_layers_on_the_fast_path() -> None:
    transform, log_prob = record(CASES["weight_used_outside_its_module"]())
    types = {name: type(f) for f in transform._recorder.factors(log_prob) for name in f.names}
    assert types["0.weight"] is DenseFactor
    assert types["2.weight"] is OuterFactor


def _hooks(module: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())


def test_hooks_are_there_inside_record_and_gone_after_it() -> None:
    case = CASES["tanh_mlp"]()
    assert isinstance(case.actor, nn.Module)
    with AdvantageTransform(case.actor).record():
        assert _hooks(case.actor) == 3
    assert _hooks(case.actor) == 0


def test_hooks_are_gone_after_an_exception() -> None:
    case = CASES["tanh_mlp"]()
    assert isinstance(case.actor, nn.Module)
    with pytest.raises(RuntimeError), AdvantageTransform(case.actor).record():
        case.compute(case.data[0][:, :5], case.data[1])
    assert _hooks(case.actor) == 0


def test_free_parameters_are_back_after_an_exception() -> None:
    case = CASES["owned_log_std"]()
    before = case.parameters
    with pytest.raises(RuntimeError), AdvantageTransform(case.actor).record():
        case.compute(case.data[0][:, :5], case.data[1])
    assert [id(p) for p in case.parameters] == [id(p) for p in before]
    assert all(type(p) is nn.Parameter for p in case.parameters)


def test_hooks_of_the_user_stay_and_see_the_same_output() -> None:
    case = CASES["tanh_mlp"]()
    assert isinstance(case.actor, nn.Sequential)
    # A hook that replaces the output changes what later layers are fed, and with it the score of this one.
    case.actor[0].register_forward_hook(lambda module, args, output: 2 * output)
    transform, log_prob = record(case)
    transform(log_prob, torch.ones_like(log_prob))
    h = dense.score_matrix(log_prob, case.parameters)
    assert relative_error(transform.gram(), h @ h.T) <= 1e-10
    assert _hooks(case.actor) == 1


@pytest.mark.parametrize("name", CASES)
def test_recording_leaves_values_and_parameters_as_they_are(name: str) -> None:
    case = CASES[name]()
    before = case.parameters
    assert torch.equal(record(case)[1], case.log_prob())
    assert [id(p) for p in case.parameters] == [id(p) for p in before]


def test_recording_twice_forgets_the_first() -> None:
    case = CASES["tanh_mlp"]()
    transform, log_prob = record(case)
    transform(log_prob, torch.ones_like(log_prob))
    expected = transform.gram()
    other = case.compute(*(2 * t for t in case.data))
    with transform.record():
        case.compute(*(2 * t for t in case.data))
    with transform.record():
        log_prob = case.log_prob()
    transform(log_prob, torch.ones_like(other))
    assert torch.equal(transform.gram(), expected)


def test_a_forward_pass_whose_output_is_not_used_is_ignored() -> None:
    case = CASES["tanh_mlp"]()
    transform = AdvantageTransform(case.actor)
    with transform.record():
        case.compute(*(2 * t for t in case.data))
        log_prob = case.log_prob()
    transform(log_prob, torch.ones_like(log_prob))
    h = dense.score_matrix(log_prob, case.parameters)
    assert relative_error(transform.gram(), h @ h.T) <= 1e-10


def test_a_forward_pass_without_gradients_may_run_inside_record() -> None:
    case = CASES["tanh_mlp"]()
    transform = AdvantageTransform(case.actor)
    with transform.record():
        with torch.no_grad():
            old = case.log_prob()
        log_prob = case.log_prob()
    step = transform(log_prob, old)
    h = dense.score_matrix(log_prob, case.parameters)
    assert relative_error(flat(step.direction), dense.natural_gradient(h, old, torch.ones_like(old), 0.1)) <= 1e-10


def _gram_error(case: Case) -> float:
    transform, log_prob = record(case)
    transform(log_prob, torch.ones_like(log_prob))
    h = dense.score_matrix(log_prob, case.parameters)
    return relative_error(transform.gram(), h @ h.T)


def test_a_batch_coupled_by_its_mean_takes_the_batched_path() -> None:
    case = CASES["tanh_mlp"]()
    coupled = Case(case.actor, case.data, lambda obs, a: gaussian(case.actor(obs) - case.actor(obs).mean(0), a))
    assert _gram_error(coupled) <= 1e-10


def test_the_input_of_a_per_sample_parameter_may_change_after_it_ran() -> None:
    # Only how many samples there are is read from it.
    case = CASES["per_sample_log_std"]()
    obs, action = case.data
    actor, log_std = case.actor
    scratch = torch.zeros(12, 1)

    def compute() -> Tensor:
        width = log_std(scratch)
        scratch.add_(1.0)
        return gaussian(actor(obs), action, width)

    assert _gram_error(Case(case.actor, (), compute)) <= 1e-10


def test_activation_checkpointing_changes_nothing() -> None:
    case = CASES["tanh_mlp"]()
    forward = partial(checkpoint, case.actor, use_reentrant=False)
    assert _gram_error(Case(case.actor, case.data, lambda obs, action: gaussian(forward(obs), action))) <= 1e-10


def test_a_forward_pass_under_autocast_keeps_its_two_digits() -> None:
    case = CASES["tanh_mlp"]().to(torch.float32)
    transform = AdvantageTransform(case.actor)
    with transform.record(), torch.autocast("cpu", dtype=torch.bfloat16):
        log_prob = case.log_prob()
    log_prob = log_prob.float()
    transform(log_prob, torch.ones_like(log_prob))
    scores = problem("tanh_mlp").scores
    assert relative_error(transform.gram(), scores @ scores.T) <= 5e-2
