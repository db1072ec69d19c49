"""What is recorded: hooks come and go, the fast path is taken where it is right, and only there."""

import copy
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import ref

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ratpg.natgrad import AdvantageTransform, CaptureError, batched, capture, dense
from ratpg.natgrad.factors import DenseFactor, Factor, OuterFactor
from ratpg.natgrad.layer import Layer
from ratpg.natgrad.layers import build_factors

from .case import gaussian
from .cases import CASES, Case
from .oracle import flat, problem, record, relative_error

OUTER, ROWS, TOKENS = "outer product", "rows", "contraction of tokens"
IDS, USED = "contraction of equal ids", "rows of the ids that occur"
FAST = {
    "tanh_mlp": {OUTER},
    "inplace_relu_mlp": {OUTER},
    "frozen_weight_trainable_bias": {OUTER},
    "residual_mlp": {OUTER},
    "linear_called_by_keyword": {OUTER},
    "shared_trunk": {OUTER},
    "shared_trunk_in_two_modules": {OUTER, TOKENS},
    "mixture_of_heads": {OUTER},
    "one_sample": {OUTER},
    "two_panels": {OUTER},
    "few_tokens": {ROWS, TOKENS},
    "many_tokens": {ROWS},
    "grid_of_patches": {ROWS},
    "folded_tokens": {ROWS},
    "module_called_twice": {ROWS, TOKENS},
    "module_called_three_times": {OUTER, ROWS},
    "tied_linears": {OUTER, ROWS},
    "owned_log_std": {OUTER, ROWS},
    "owned_scalar_log_std_in_bounds": {OUTER, ROWS},
    "free_positions_and_scales": {ROWS},
    "per_sample_log_std": {OUTER, ROWS},
    "per_sample_parameter_called_twice": {OUTER, ROWS},
    "layer_norm_mlp": {OUTER, ROWS},
    "batch_norm_in_eval_mode": {OUTER, ROWS},
    "conv1d_net": {OUTER, ROWS},
    "conv3d_with_all_options": {OUTER, ROWS},
    "depthwise_separable_convolution": {OUTER, ROWS},
    "wide_convolution_of_few_pixels": {OUTER, TOKENS},
    "convolution_of_frames_folded_into_the_batch": {OUTER, ROWS},
    "convolution_called_at_two_sizes": {OUTER, ROWS},
    "tied_convolutions_of_different_strides": {OUTER, ROWS},
    "group_norm_net": {OUTER, ROWS},
    "layer_norm_over_whole_images": {OUTER, ROWS},
    "nature_cnn": {OUTER, ROWS, TOKENS},
    "impala_actor_critic": {OUTER, ROWS},
    "gpt": {ROWS, USED},
    "gpt_with_rms_norm": {ROWS, USED},
    "embedding_of_a_large_vocabulary": {OUTER, IDS},
    "embedding_of_few_ids": {OUTER, USED},
    "embedding_with_padding": {OUTER, USED},
    "embedding_bag_of_means": {OUTER, USED},
    "lora_adapters": {OUTER},
    "lora_adapters_over_tokens": {ROWS},
    "dictionary_of_observations": {OUTER, ROWS},
}
"""Ways in which the layers' shares are found."""


@pytest.mark.parametrize("name", FAST)
def test_these_cases_never_take_the_batched_path(name: str) -> None:
    transform, log_prob = record(CASES[name]())
    transform(log_prob, torch.ones_like(log_prob))
    assert {layer.factor for layer in transform.plan().layers} == FAST[name]


def test_batched_rows_do_not_depend_on_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    transform, log_prob = record(CASES["gru"]())
    y = torch.ones_like(log_prob)
    transform(log_prob, y)
    whole = transform.gram()
    monkeypatch.setattr("ratpg.natgrad.batched.VJP_CHUNK_BYTES", 1)
    transform(log_prob, y)
    assert relative_error(transform.gram(), whole) <= 1e-12


def test_batched_rows_of_images_come_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    # Each of the vectors that are batched has gradients of all samples' images on its way to the weights.
    samples, width, size = 16, 8, 10
    first = nn.utils.parametrizations.weight_norm(nn.Conv2d(1, width, 3, padding=1))
    net = nn.Sequential(first, nn.Tanh(), nn.Flatten(), nn.Linear(width * size**2, 1))
    transform, chunks = AdvantageTransform(net), []
    rows = batched._rows
    monkeypatch.setattr(
        batched, "_rows", lambda y, p, cotangents: chunks.append(len(cotangents)) or rows(y, p, cotangents)
    )
    image = samples * width * size**2 * 4
    monkeypatch.setattr(batched, "VJP_CHUNK_BYTES", 5 * batched.ALIVE * image + 4096)
    with transform.record():
        log_prob = net(torch.randn(samples, 1, size, size)).squeeze(1)
    transform(log_prob, torch.ones(samples))
    assert chunks == [5, 5, 5, 1]


def test_gradients_are_let_go_as_the_backward_pass_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    # When a layer's factors are built no gradient of the layers above it is held any more, but by their factors.
    case, alive, seen, kept = CASES["impala_actor_critic"](), [], [], []

    def build(layer: Layer) -> list[Factor]:
        seen.append(sum(reference() is not None for reference in alive))
        alive.extend(ref(call.gradients) for call in layer.calls if call.gradients.ndim == 4)
        return build_factors(layer)

    monkeypatch.setattr("ratpg.natgrad.capture.build_factors", build)
    transform, log_prob = record(case)
    transform._recorder._backward(log_prob, lambda names, factors: kept.append(factors))
    assert len(alive) == 15
    # A residual block's output gradient waits until both of its branches have been run through.
    assert max(seen) <= 2


@pytest.mark.parametrize("again", [False, True])
def test_a_layers_factors_are_let_go_before_the_next_where_they_are_only_visited(again: bool) -> None:
    # In the pass that compares with autograd too, which only the first recording goes through.
    transform, log_prob = record(CASES["impala_actor_critic"]())
    if again:
        transform._recorder.factors(log_prob)
    alive, seen = [], []

    def receive(factor: Factor) -> None:
        seen.append(sum(reference() is not None for reference in alive))
        alive.append(ref(factor))

    transform._recorder.visit(log_prob, receive)
    assert len(alive) > 30
    assert max(seen) <= 1  # a convolution's weight while its bias is received


@pytest.mark.parametrize("name", CASES)
def test_a_solve_leaves_the_same_gram_matrix_and_plan_as_a_step(name: str) -> None:
    transform, log_prob = record(CASES[name]())
    y = torch.linspace(-1, 1, len(log_prob), dtype=log_prob.dtype)
    step = transform(log_prob, y)
    gram, layers = transform.gram(), transform.plan().layers
    solution = transform.solve(log_prob, y[:, None])
    assert relative_error(solution.x[:, 0], step.advantage) <= 1e-10
    assert relative_error(transform.gram(), gram) <= 1e-12
    assert transform.plan().layers == layers


def test_a_tied_weight_leaves_the_other_layers_on_the_fast_path() -> None:
    transform, log_prob = record(CASES["weight_used_outside_its_module"]())
    types = {name: type(f) for f in transform._recorder.factors(log_prob) for name in f.names}
    assert types["0.weight"] is DenseFactor
    assert types["2.weight"] is OuterFactor


def test_a_bias_that_a_norm_takes_away_leaves_its_layer_on_the_fast_path() -> None:
    # Its rows are rounding errors, and so is their difference from autograd's.
    transform, log_prob = record(CASES["group_norm_of_each_channel"]())
    transform(log_prob, torch.ones_like(log_prob))
    ways = {name: layer.factor for layer in transform.plan().layers for name in layer.parameters}
    assert ways["0.weight"] == ways["0.bias"] == ROWS


def test_a_sparse_embedding_has_the_scores_of_a_dense_one() -> None:
    case = CASES["embedding_of_few_ids"]()
    grams = []
    for sparse in (False, True):
        case.actor[0].sparse = sparse
        transform, log_prob = record(case)
        transform(log_prob, torch.ones_like(log_prob))
        grams.append(transform.gram())
    assert torch.equal(*grams)


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


def test_what_is_released_is_let_go() -> None:
    class Saved:
        def __init__(self, tensor: Tensor):
            self.tensor = tensor.detach()  # or the graph would hold itself
            saved.append(ref(self))

    saved: list[ref[Saved]] = []
    actor = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 2))
    transform = AdvantageTransform(actor)
    with transform.record(), torch.autograd.graph.saved_tensors_hooks(Saved, lambda kept: kept.tensor):
        log_prob = actor(torch.randn(4, 3)).sum(1)
    transform(log_prob, torch.randn(4))
    del log_prob
    assert any(kept() for kept in saved)
    transform.release()
    assert saved and not any(kept() for kept in saved)
    with pytest.raises(CaptureError, match="nothing was recorded"):
        transform(actor(torch.randn(4, 3)).sum(1), torch.randn(4))
    with pytest.raises(CaptureError, match="nothing recorded yet"):
        transform.gram()


def test_a_forward_pass_whose_output_is_not_used_is_ignored() -> None:
    case = CASES["tanh_mlp"]()
    transform = AdvantageTransform(case.actor)
    with transform.record():
        case.compute(*(2 * t for t in case.data))
        log_prob = case.log_prob()
    transform(log_prob, torch.ones_like(log_prob))
    h = dense.score_matrix(log_prob, case.parameters)
    assert relative_error(transform.gram(), h @ h.T) <= 1e-10


def test_an_error_inside_record_lets_go_of_what_was_recorded() -> None:
    case = CASES["tanh_mlp"]()
    recorder = AdvantageTransform(case.actor)._recorder
    with pytest.raises(RuntimeError), recorder.record():
        case.log_prob()
        assert recorder.calls
        raise RuntimeError
    assert not recorder.calls


@pytest.mark.parametrize("kind", ["grad", "vmap", "grad of each"])
def test_networks_inside_of_transformed_functions(kind: str) -> None:
    actor = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    obs = torch.randn(9, 4, dtype=torch.float64)

    def energy(x: Tensor) -> Tensor:
        return actor(x).square().sum()

    compute = {
        "grad": lambda: torch.func.grad(energy)(obs).square().sum(1),
        "vmap": lambda: torch.vmap(energy)(obs),
        "grad of each": lambda: torch.vmap(torch.func.grad(energy))(obs).square().sum(1),
    }[kind]
    transform = AdvantageTransform(actor)
    with transform.record():
        log_prob = compute()
    transform(log_prob, torch.ones_like(log_prob))
    h = dense.score_matrix(compute(), list(actor.parameters()))
    assert relative_error(transform.gram(), h @ h.T) <= 1e-10


def test_a_call_within_the_block_with_checkpointed_activations() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.scale = nn.Linear(4, 3).double(), nn.Parameter(torch.ones(3, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            return (checkpoint(self.body, x, use_reentrant=False) * self.scale).square().sum(1)

    actor, obs = Scaled(), torch.randn(9, 4, dtype=torch.float64)
    transform = AdvantageTransform(actor)
    with transform.record():
        log_prob = actor(obs)
        transform(log_prob, torch.ones_like(log_prob))
    h = dense.score_matrix(actor(obs), list(actor.parameters()))
    assert relative_error(transform.gram(), h @ h.T) <= 1e-10


@pytest.mark.parametrize("kind", ["no outputs", "no inputs", "norm", "embedding", "convolution"])
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_layers_without_entries(kind: str) -> None:
    obs = torch.randn(9, 4, dtype=torch.float64)
    layer, inputs = {
        "no outputs": (nn.Linear(4, 0), obs),
        "no inputs": (nn.Linear(0, 4), obs[:, :0]),
        "norm": (nn.LayerNorm(0), obs[:, :0]),
        "embedding": (nn.Embedding(5, 0), torch.arange(9) % 5),
        "convolution": (nn.Conv1d(0, 2, 1), obs[:, None, :][:, :0]),
    }[kind]
    body, head = layer.double(), nn.Linear(4, 3).double()

    def log_prob() -> Tensor:
        return (head(obs).square().sum(1) + body(inputs).flatten(1).sum(1)).tanh()

    transform = AdvantageTransform([body, head])
    with transform.record():
        recorded = log_prob()
    transform(recorded, torch.ones_like(recorded))
    h = dense.score_matrix(log_prob(), [*body.parameters(), *head.parameters()])
    assert relative_error(transform.gram(), h @ h.T) <= 1e-10


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_scripted_and_traced_modules() -> None:
    obs = torch.randn(9, 4, dtype=torch.float64)
    for actor in (torch.jit.script(nn.Linear(4, 3).double()), torch.jit.trace(nn.Linear(4, 3).double(), obs)):
        transform = AdvantageTransform(actor)
        with transform.record():
            log_prob = actor(obs).square().sum(1)
        transform(log_prob, torch.ones_like(log_prob))
        h = dense.score_matrix(log_prob, list(actor.parameters()))
        assert relative_error(transform.gram(), h @ h.T) <= 1e-10


def test_a_module_that_owns_a_transform_of_itself_is_copied() -> None:
    class Agent(nn.Linear):
        def __init__(self) -> None:
            super().__init__(4, 3, dtype=torch.float64)
            self.transform = AdvantageTransform(self)

    agent, obs = Agent(), torch.randn(9, 4, dtype=torch.float64)
    other = copy.deepcopy(agent)
    with other.transform.record():
        log_prob = other(obs).square().sum(1)
    other.transform(log_prob, torch.ones_like(log_prob))
    h = dense.score_matrix(log_prob, list(other.parameters()))
    assert relative_error(other.transform.gram(), h @ h.T) <= 1e-10


def test_copies_that_record_at_once_keep_their_fast_paths() -> None:
    class Head(nn.Linear):  # of a type that is not PyTorch's own
        pass

    actor, obs = Head(4, 3).double(), torch.randn(9, 4, dtype=torch.float64)
    actor, first, second = copy.deepcopy((actor, AdvantageTransform(actor), AdvantageTransform(actor)))
    with first.record(), second.record():
        log_prob = actor(obs).square().sum(1)
    second(log_prob, torch.ones_like(log_prob))
    assert [layer.factor for layer in second.plan().layers] == ["outer product"]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))])
def test_a_copy_records_the_copied_actor(copied: Callable[[Any], Any]) -> None:
    actor = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    transform, obs = AdvantageTransform(actor), torch.randn(9, 4, dtype=torch.float64)
    with transform.record():
        log_prob = actor(obs).square().sum(1)
    transform(log_prob, torch.ones_like(log_prob))
    other_actor, other = copied((actor, transform))
    with other.record():
        log_prob = other_actor(obs).square().sum(1)
    other(log_prob, torch.ones_like(log_prob))
    assert list(other.parameters.values()) == list(other_actor.parameters())
    assert relative_error(other.gram(), transform.gram()) <= 1e-12


def test_another_default_device_changes_nothing() -> None:
    case = CASES["tanh_mlp"]()
    transform = AdvantageTransform(case.actor)
    with transform.record():
        log_prob = case.log_prob()
    before = torch.get_default_device()
    try:
        torch.set_default_device("meta")
        transform(log_prob, torch.ones_like(log_prob))
    finally:
        torch.set_default_device(before)
    h = dense.score_matrix(case.log_prob(), case.parameters)
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


def test_rows_of_many_large_parameters_come_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    case, seen = CASES["lstm"](), []
    rows = batched.batched_factors
    monkeypatch.setattr(capture, "batched_factors", lambda y, some: seen.append(list(some)) or rows(y, some))
    plain, log_prob = record(case)
    expected = plain(log_prob, log_prob.detach())
    assert plain.plan().held
    (names,) = seen
    for module in (batched, capture):
        monkeypatch.setattr(module, "ROWS_BYTES", 12 * 8 * 60)
    transform, log_prob = record(case)
    step = transform(log_prob, log_prob.detach())
    assert not transform.plan().held
    assert [name for group in seen[1:] for name in group] == names and len(seen) > 2
    assert relative_error(flat(step.direction), flat(expected.direction)) <= 1e-10


def test_a_forward_pass_under_autocast_keeps_its_two_digits() -> None:
    case = CASES["tanh_mlp"]().to(torch.float32)
    transform = AdvantageTransform(case.actor)
    with transform.record(), torch.autocast("cpu", dtype=torch.bfloat16):
        log_prob = case.log_prob()
    log_prob = log_prob.float()
    transform(log_prob, torch.ones_like(log_prob))
    scores = problem("tanh_mlp").scores
    assert relative_error(transform.gram(), scores @ scores.T) <= 5e-2
