"""Every pass of a foreign network is compared with autograd, each parameter by its own measure.

Most tests first show the transform a pass in which any reading of the layout is right, and then one in which only the
right reading is.
"""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from ratpg.natgrad import AdvantageTransform, CaptureError, Recorder, capture, dense
from ratpg.natgrad.verifier import SKETCH, Verifier, tolerance

from .case import gaussian
from .cases import CASES, Case
from .oracle import relative_error


def _gram_error(transform: AdvantageTransform, case: Case, *data: Tensor) -> float:
    with transform.record():
        log_prob = case.compute(*data)
    transform(log_prob, torch.ones_like(log_prob))
    h = dense.score_matrix(log_prob, case.parameters)
    return relative_error(transform.gram(), h @ h.T)


def test_batches_of_any_size_follow_each_other() -> None:
    case = CASES["tanh_mlp"]()
    transform = AdvantageTransform(case.actor)
    for batch in (12, 1, 5, 10):
        assert _gram_error(transform, case, *(t[:batch] for t in case.data)) <= 1e-10


def test_sequences_of_any_length_follow_each_other() -> None:
    case = CASES["many_tokens"]()
    transform = AdvantageTransform(case.actor)
    obs, action = case.data
    for tokens in (20, 1, 7):
        assert _gram_error(transform, case, obs[:, :tokens], action) <= 1e-10


def test_sequence_first_after_one_time_step() -> None:
    case = CASES["sequence_first"]()
    transform = AdvantageTransform(case.actor)
    obs, action = case.data
    assert _gram_error(transform, case, obs[:, :1], action) <= 1e-10
    assert _gram_error(transform, case, obs, action) <= 1e-10


def test_sequence_first_after_one_sample() -> None:
    case = CASES["sequence_first"]()
    transform = AdvantageTransform(case.actor)
    obs, action = case.data
    assert _gram_error(transform, case, obs[:1], action[:1]) <= 1e-10
    assert _gram_error(transform, case, obs, action) <= 1e-10


def test_sequence_first_after_a_zero_head() -> None:
    # With the last layer at zero no score reaches the others, and their layout cannot be told yet.
    case = CASES["sequence_first"]()
    assert isinstance(case.actor, nn.Sequential)
    transform = AdvantageTransform(case.actor)
    head = case.actor[4].weight
    initial = head.detach().clone()
    nn.init.zeros_(head)
    assert _gram_error(transform, case, *case.data) <= 1e-10
    head.data.copy_(initial)
    assert _gram_error(transform, case, *case.data) <= 1e-10


def test_free_parameter_that_meets_as_many_time_steps_as_samples() -> None:
    case = CASES["free_log_std_sequence_first"]()
    transform = AdvantageTransform(case.actor)
    obs, action = case.data
    assert _gram_error(transform, case, obs, action) <= 1e-10
    assert _gram_error(transform, case, obs[:5], action[:5]) <= 1e-10


def test_shared_context_after_a_batch_that_does_not_divide_its_size() -> None:
    case = CASES["context_common_to_all_samples"]()
    transform = AdvantageTransform(case.actor)
    obs, action, codes = case.data
    for batch in (4, 3, 6, 1, 2):
        assert _gram_error(transform, case, obs[:batch], action[:batch], codes) <= 1e-10


def test_mask_that_first_keeps_every_sample() -> None:
    actor = CASES["tanh_mlp"]().actor
    obs, action = CASES["tanh_mlp"]().data
    case = Case(actor, (), lambda mask: gaussian(actor(obs), action)[mask])
    transform = AdvantageTransform(actor)
    assert _gram_error(transform, case, torch.ones(12, dtype=torch.bool)) <= 1e-10
    for mask in (torch.arange(12) % 2 == 0, torch.arange(12) < 6):
        assert _gram_error(transform, case, mask) <= 1e-10
    assert _gram_error(transform, case, torch.arange(12) < 7) <= 1e-10


def test_weight_that_comes_to_be_used_outside_its_module() -> None:
    case = CASES["tanh_mlp"]()
    actor, (obs, action) = case.actor, case.data
    transform = AdvantageTransform(actor)
    assert _gram_error(transform, case, obs, action) <= 1e-10
    tied = Case(actor, (), lambda: case.compute(actor[0](obs).tanh() @ actor[0].weight, action))
    assert _gram_error(transform, tied) <= 1e-10


def test_another_use_of_a_weight_after_the_plain_one() -> None:
    layer = nn.Linear(4, 3).double()
    data = torch.randn(9, 4, dtype=torch.float64)
    transform = AdvantageTransform(layer)
    plain = Case(layer, (data,), lambda x: layer(x).square().sum(1))
    twice = Case(layer, (data,), lambda x: (layer(x) @ layer.weight).square().sum(1))
    for case in (plain, twice, plain):
        assert _gram_error(transform, case, *case.data) <= 1e-10


def test_samples_that_depend_on_each_other_after_samples_that_do_not() -> None:
    layer = nn.Linear(4, 3).double()
    data = torch.randn(9, 4, dtype=torch.float64)
    transform = AdvantageTransform(layer)

    def centred(x: Tensor) -> Tensor:
        output = layer(x)
        return (output - output.mean(0)).square().sum(1)

    for compute in (lambda x: layer(x).square().sum(1), centred):
        assert _gram_error(transform, Case(layer, (data,), compute), data) <= 1e-10


def test_a_weight_used_outside_its_module_behind_a_gate_that_opens_later() -> None:
    layer, gate = nn.Linear(4, 4).double(), torch.zeros((), dtype=torch.float64)
    data = torch.randn(9, 4, dtype=torch.float64)
    transform = AdvantageTransform(layer)
    case = Case(layer, (data,), lambda x: (layer(x) + gate * F.linear(x, layer.weight)).square().sum(1))
    for value in (0.0, 1.0):
        gate.fill_(value)
        assert _gram_error(transform, case, data) <= 1e-10


def test_samples_that_are_coupled_behind_a_gate_that_opens_later() -> None:
    layer, gate = nn.Linear(4, 4).double(), torch.zeros((), dtype=torch.float64)
    data = torch.randn(9, 4, dtype=torch.float64)
    transform = AdvantageTransform(layer)
    case = Case(layer, (data,), lambda x: (layer(x) + gate * layer(x).mean(0)).square().sum(1))
    errors = []
    for value in (0.0, 0.0, 0.0, 0.5, 1.0):
        gate.fill_(value)
        errors.append(_gram_error(transform, case, data))
    assert max(errors) <= 1e-10


def test_a_free_parameter_used_plainly_behind_a_gate_that_opens_later() -> None:
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shift = nn.Parameter(torch.arange(4.0, dtype=torch.float64))

        def forward(self, x: Tensor, gate: Tensor) -> Tensor:
            return (x + self.shift + gate * x[:, :1] * self.shift.roll(1)).square().sum(1)

    actor, data = Shifted(), torch.randn(9, 4, dtype=torch.float64)
    transform = AdvantageTransform(actor)
    for gate in (0.0, 0.0, 1.0):
        case = Case(actor, (data, torch.tensor(gate, dtype=torch.float64)), actor)
        assert _gram_error(transform, case, *case.data) <= 1e-10


def test_attention_over_windows_that_grow_later() -> None:
    projection, head = nn.Linear(4, 12).double(), nn.Linear(4, 3).double()
    actor, data = nn.ModuleList([projection, head]), torch.randn(12, 4, dtype=torch.float64)
    transform = AdvantageTransform(actor)
    for window in (1, 1, 4):

        def attended(x: Tensor, window: int = window) -> Tensor:
            query, key, value = projection(x).view(-1, window, 12).chunk(3, -1)
            return head(((query @ key.mT).softmax(-1) @ value).reshape(-1, 4)).square().sum(1)

        assert _gram_error(transform, Case(actor, (data,), attended), data) <= 1e-10


@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors(layout: torch.layout) -> None:
    layer, x = nn.Linear(4, 3).double(), [torch.randn(n, 4, dtype=torch.float64) for n in (2, 5, 1)]
    data = torch.nested.nested_tensor(x, layout=layout)
    case = Case(layer, (), lambda: torch.stack([part.square().sum() for part in layer(data).unbind()]))
    assert _gram_error(AdvantageTransform(layer), case) <= 1e-10


def test_a_free_parameter_that_meets_two_lengths() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            return (x * self.scale).sum(1) + (self.scale * torch.arange(3.0, dtype=torch.float64)).sum()

    actor, data = Scaled(), torch.randn(9, 4, dtype=torch.float64)
    assert _gram_error(AdvantageTransform(actor), Case(actor, (data,), actor), data) <= 1e-10


def test_two_transforms_that_record_at_once_keep_their_fast_paths() -> None:
    class Head(nn.Linear):  # of a type that is not PyTorch's own
        pass

    actor, data = Head(4, 3).double(), torch.randn(9, 4, dtype=torch.float64)
    first, second = AdvantageTransform(actor), AdvantageTransform(actor)
    with first.record(), second.record():
        log_prob = actor(data).square().sum(1)
    second(log_prob, torch.ones_like(log_prob))
    assert [layer.factor for layer in second.plan().layers] == ["outer product"]


# --- passes that look alike, taken in turn ----------------------------------------------------------------------------

B = 6
ZERO = torch.zeros(1, 2, dtype=torch.float64)
MIX = torch.randn(B, B, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
SAME_SHAPES: dict[str, list[Callable[[nn.Module, Tensor], Tensor]]] = {
    "zeros before or after": [
        lambda net, x: torch.cat([net(x), ZERO])[:-1],
        lambda net, x: torch.cat([ZERO, net(x)])[:-1],
    ],
    "a matrix before or after": [lambda net, x: net(x) @ MIX, lambda net, x: MIX @ net(x)],
    "another start of a slice": [lambda net, x, n=n: F.pad(net(x), (0, 0, 1, 1))[n : n + B] for n in (1, 0, 2)],
    "pooled over features or samples": [
        lambda net, x: F.avg_pool1d(net(x)[None], 3, 1, 1)[0],
        lambda net, x: F.avg_pool1d(net(x).T[None], 3, 1, 1)[0].T,
    ],
    "another view": [
        lambda net, x: net(x).view(B, 2, 3).flip(1).reshape(B, -1),
        lambda net, x: net(x).view(B // 2, 2, 2, 3).flip(1).reshape(B, -1),
    ],
    "rolled features or samples": [lambda net, x, axis=axis: net(x).roll(1, axis) for axis in (1, 0)],
}


@pytest.mark.parametrize("kind", SAME_SHAPES)
def test_no_pass_is_wrong_where_ways_that_look_alike_take_turns(kind: str) -> None:
    width = 2 if "zeros" in kind else B
    net, generator = nn.Linear(3, width).double(), torch.Generator().manual_seed(0)
    transform = AdvantageTransform(net)
    for _ in range(4):
        for way in SAME_SHAPES[kind]:
            x = torch.randn(B, 3, generator=generator, dtype=torch.float64)
            case = Case(net, (x,), lambda x, way=way: -(way(net, x) - torch.arange(float(width))).square().sum(1))
            assert _gram_error(transform, case, x) <= 1e-10


# --- what a layer's factor does not know of ---------------------------------------------------------------------------


def test_a_call_with_other_values_of_the_parameters() -> None:
    net, x = nn.Linear(3, 2).double(), torch.randn(B, 3, dtype=torch.float64)
    other = {name: torch.randn_like(p) for name, p in net.named_parameters()}
    transform = AdvantageTransform(net)
    case = Case(
        net, (x,), lambda x: (functional_call(net, other, (x,)) + F.linear(x, net.weight.sin(), net.bias)).sin().sum(1)
    )
    assert _gram_error(transform, case, x) <= 1e-10


def test_a_forward_of_an_instance() -> None:
    net, x = nn.Linear(3, 2).double(), torch.randn(B, 3, dtype=torch.float64)
    net.forward = lambda x: F.linear(x, net.weight.square(), net.bias.sin())
    assert _gram_error(AdvantageTransform(net), Case(net, (x,), lambda x: net(x).sin().sum(1)), x) <= 1e-10


@pytest.mark.parametrize("inside", [True, False])
def test_a_forward_that_is_replaced_later(inside: bool) -> None:
    net, x = nn.Linear(3, 2).double(), torch.randn(B, 3, dtype=torch.float64)
    transform = AdvantageTransform(net)

    def replace() -> None:
        net.forward = lambda x: F.linear(x, net.weight.sin())

    with transform.record():
        if inside:
            replace()
        log_prob = net(x).square().sum(1) + net.bias.sin().sum()
    replace()
    transform(log_prob, torch.ones_like(log_prob))
    h = dense.score_matrix(log_prob, list(net.parameters()))
    assert relative_error(transform.gram(), h @ h.T) <= 1e-10


def test_a_hook_that_a_parameter_gets_later() -> None:
    net, x = nn.Linear(3, 2).double(), torch.randn(B, 3, dtype=torch.float64)
    transform, y = AdvantageTransform(net), torch.randn(B, dtype=torch.float64)
    for hooked in (False, True):
        if hooked:
            net.bias.register_hook(lambda g: g * 0.5)
        with transform.record():
            log_prob = -net(x).square().sum(1)
        step = transform(log_prob, y)
        gradients = torch.autograd.grad((log_prob * step.advantage).mean(), list(net.parameters()))
        assert all(
            torch.allclose(g, step.direction[n]) for g, (n, _) in zip(gradients, net.named_parameters(), strict=True)
        )


def test_a_weight_used_again_under_autocast() -> None:
    net, x = nn.Linear(4, 4), torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    transform = AdvantageTransform(net)
    with transform.record(), torch.autocast("cpu", dtype=torch.bfloat16):
        h = net(x).float()
        log_prob = -(h + F.linear(x, net.weight).float()).square().sum(1)
    transform(log_prob, torch.ones(64))
    h = dense.score_matrix(log_prob, list(net.parameters()))
    assert relative_error(transform.gram(), h @ h.T) <= 5e-2


# --- each parameter by its own measure --------------------------------------------------------------------------------


def test_a_bias_beside_large_inputs() -> None:
    net, x = nn.Linear(3, 2), 1e4 * torch.randn(B, 3)
    net.weight.data *= 1e-4
    net.bias.register_hook(lambda g: g * 0.5)
    transform = AdvantageTransform(net)
    with transform.record():
        log_prob = -(net(x) - 1).square().sum(1)
    step = transform(log_prob, torch.randn(B))
    (gradient,) = torch.autograd.grad((log_prob * step.advantage).mean(), net.bias)
    assert torch.allclose(step.direction["bias"], gradient, rtol=1e-5)


def test_samples_beside_one_of_a_large_score() -> None:
    net, x, scale = nn.Linear(3, 2), torch.randn(8, 3, generator=torch.Generator().manual_seed(0)), torch.ones(8)
    scale[0] = 1e5
    transform = AdvantageTransform(net)
    with transform.record():
        h = net(x)
        log_prob = -(torch.cat([h[:1], h[1:] - h[1:].mean(0)]) - 1).square().sum(1) * scale
    transform(log_prob, torch.ones(8))
    h = dense.score_matrix(log_prob, list(net.parameters())).double()
    assert relative_error(transform.gram()[1:, 1:].double(), h[1:] @ h[1:].T) <= 1e-4


def test_tokens_that_cancel() -> None:
    # The row is a hundredth of the terms that it sums up, which is what rounding is in proportion to.
    torch.manual_seed(0)
    net, x = nn.Linear(4, 4, bias=False), torch.randn(16, 8, 4) + 100
    transform = AdvantageTransform(net)
    with transform.record():
        h = net(x)
        h = h - h.mean(1, keepdim=True)
        log_prob = -(h + 0.3 * h.mean(0) - torch.randn_like(h)).square().sum((1, 2))
    transform(log_prob, torch.ones(16))
    h = dense.score_matrix(log_prob, list(net.parameters())).double()
    assert relative_error(transform.gram().double(), h @ h.T) <= 1e-4


@pytest.mark.parametrize("kind", ["nearly certain samples", "tiny scores", "a score of zero"])
def test_float16_has_room_for_the_probe(kind: str) -> None:
    torch.manual_seed(0)
    bias = kind != "a score of zero"
    x, net = torch.randn(16, 4), nn.Sequential(nn.Linear(4, 8, bias=bias), nn.ReLU(), nn.Linear(8, 3, bias=bias))
    shift, scale = torch.zeros(16, 1), 1.0
    if kind == "nearly certain samples":
        shift[4:] = 15.0
    elif kind == "tiny scores":
        scale = 1e-3
    else:
        x[3] = 0.0
    transform = AdvantageTransform(net)
    with transform.record():
        with torch.autocast("cpu", dtype=torch.float16):
            h = net(x)
        log_prob = scale * (h.float() + shift * torch.tensor([1.0, 0.0, 0.0])).log_softmax(-1)[:, 0]
    transform(log_prob, torch.ones(16))
    h = dense.score_matrix(log_prob, list(net.parameters()))
    assert relative_error(transform.gram(), h @ h.T) <= 2e-2


def test_layers_beside_one_in_half_precision() -> None:
    net, x = nn.ModuleList([nn.Linear(4, 4), nn.Linear(8, 8)]), torch.randn(64, 8)
    transform = AdvantageTransform(net)
    with transform.record():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            e = net[0](x[:, :4]).float()
        h = net[1](x)
        log_prob = -(h + 0.08 * h.mean(0) - 1).square().sum(1) - 0.1 * e.square().sum(1)
    transform(log_prob, torch.ones(64))
    h = dense.score_matrix(log_prob, list(net.parameters())).double()
    assert relative_error(transform.gram().double(), h @ h.T) <= 1e-2
    assert transform.plan().layers[-1].factor == "rows, by batched products"


def test_a_layer_below_one_in_half_precision_keeps_its_fast_path() -> None:
    net, x = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4)), torch.randn(64, 8)
    transform = AdvantageTransform(net)
    for _ in range(5):
        with transform.record():
            h = net[1](net[0](x))
            with torch.autocast("cpu", dtype=torch.bfloat16):
                h = net[2](h)
            log_prob = -h.float().square().sum(1)
        transform(log_prob, torch.randn(64))
        assert {layer.factor for layer in transform.plan().layers} == {"outer product"}


@pytest.mark.parametrize("held", [True, False])
def test_a_hook_that_is_not_linear_is_refused(held: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not held:
        monkeypatch.setattr(capture, "HELD_BYTES", 0)
    net, x = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).double(), torch.randn(5, 3, dtype=torch.float64)
    transform = AdvantageTransform(net)
    with transform.record():
        h = net[0](x)
        h.register_hook(lambda g: g / (1 + g.norm()))
        log_prob = -net[1](h).square().sum(1)
    with pytest.raises(CaptureError, match="not linear.*hooks"):
        transform(log_prob, torch.ones(5, dtype=torch.float64))


@pytest.mark.parametrize("held", [True, False])
def test_a_linear_hook_on_an_activation_is_part_of_the_score(held: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not held:
        monkeypatch.setattr(capture, "HELD_BYTES", 0)
    net, x = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).double(), torch.randn(5, 3, dtype=torch.float64)

    def compute(x: Tensor) -> Tensor:
        h = net[0](x)
        h.register_hook(lambda g: 2 * g + g.mean(0))
        return -net[1](h).square().sum(1)

    assert _gram_error(AdvantageTransform(net), Case(net, (x,), compute), x) <= 1e-10


# --- how often, and what a comparison says ----------------------------------------------------------------------------


@pytest.mark.parametrize(("verify", "expected"), [("always", 5), ("first", 1)])
def test_how_often_is_compared(verify: str, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    case, compared = CASES["tanh_mlp"](), []
    transform = AdvantageTransform(case.actor, verify=verify)
    disagreeing = Verifier.disagreeing
    monkeypatch.setattr(Verifier, "disagreeing", lambda *given: compared.append(1) or disagreeing(*given))
    for _ in range(5):
        with transform.record():
            log_prob = case.log_prob()
        transform(log_prob, torch.ones_like(log_prob))
    assert len(compared) == expected  # the first probe agrees


def test_a_first_pass_that_shows_nothing_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES["tanh_mlp"]()
    transform = AdvantageTransform(case.actor, verify="first")
    verifier = transform._recorder.verifier
    for samples, shown in ((1, False), (12, True)):
        with transform.record():
            log_prob = case.compute(*(t[:samples] for t in case.data))
        transform(log_prob, torch.ones_like(log_prob))
        assert verifier.is_due(log_prob) is not shown


def test_another_word_for_when_is_refused() -> None:
    with pytest.raises(ValueError, match="'always' or 'first', got 'never'"):
        AdvantageTransform(nn.Linear(2, 2), verify="never")


@pytest.mark.parametrize("width", [16, 500])
def test_a_sketch_notices_an_error_as_small_as_the_tolerance(width: int) -> None:
    # Of a wide weight a few random columns are compared, in which an error shows as it does in all.
    generator = torch.Generator().manual_seed(0)
    net, x = nn.Linear(width, 20), torch.randn(64, width, generator=generator)
    recorder = Recorder.over(net)
    with recorder.record():
        log_prob = -net(x).square().sum(1)
    (factor,) = recorder.factors(log_prob)
    v, verifier = torch.randn(64, generator=generator), recorder.verifier
    shares = verifier.shares_of(factor, factor.norms(), v, {})
    assert shares["weight"].product.shape == (20, 16 if width == 16 else SKETCH)
    eps = torch.finfo(torch.float32).eps
    shares = {name: share._replace(rounding=eps) for name, share in shares.items()}
    assert not verifier.disagreeing(log_prob, v, shares, (), {})
    error = torch.randn(20, width, generator=generator)
    error *= 3 * tolerance(eps) * shares["weight"].scale / error.norm()
    right = verifier.gradients
    verifier.gradients = lambda *given: right(*given) | {"weight": right(*given)["weight"] + error}
    assert verifier.disagreeing(log_prob, v, shares, (), {}) == {"weight"}


def test_a_probe_gives_all_samples_one_weight_and_no_two_the_same() -> None:
    verifier = Verifier({}, "always")
    norms = torch.tensor([1e5, 1.0, 3e-4, 0.0, 2.0])
    first, second, exact = verifier.probe(norms), verifier.probe(norms), verifier.probe(norms, exact=True)
    assert not torch.equal(first, second)
    assert len(set((verifier.probe(torch.ones(1000))).tolist())) == 1000
    assert torch.equal(exact.abs().log2(), exact.abs().log2().round())
    for v in (first, exact):
        weights = (v * norms)[norms > 0].abs()
        assert weights.min() >= 1 / 12 and weights.max() <= 12


def test_two_samples_that_depend_on_each_other_are_never_taken_for_themselves() -> None:
    for turn in range(60):
        net = nn.Linear(3, 2).double()
        transform = AdvantageTransform(net)
        transform._recorder.verifier._generator.manual_seed(turn)
        x = torch.randn(2, 3, generator=torch.Generator().manual_seed(turn), dtype=torch.float64)

        def centred(x: Tensor, net: nn.Module = net) -> Tensor:
            h = net(x)
            return -(h - h.mean(0) - torch.arange(2.0)[:, None]).square().sum(1)

        assert _gram_error(transform, Case(net, (x,), centred), x) <= 1e-10


def test_scores_that_are_rounding_noise_keep_their_fast_path(monkeypatch: pytest.MonkeyPatch) -> None:
    # The gradients of two terms cancel but for their rounding, which only powers of two leave as it is.
    compared = []
    disagreeing = Verifier.disagreeing
    monkeypatch.setattr(Verifier, "disagreeing", lambda *given: compared.append(disagreeing(*given)) or compared[-1])
    torch.manual_seed(0)
    net, x = nn.Linear(8, 4), torch.randn(256, 8)
    one, other = torch.rand(2, 256, 4).unbind()
    other[1:] = one[1:] * (1 - 3e-7)
    transform = AdvantageTransform(net)
    for _ in range(4):
        with transform.record():
            h = net(x)
            log_prob = (one * h - other * h).sum(1)
        transform(log_prob, torch.randn(256))
        assert {layer.factor for layer in transform.plan().layers} == {"outer product"}
    assert any(compared) and len(compared) > 8


# --- leaves and checkpoints -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["input", "output"])
def test_inputs_and_activations_that_require_a_gradient_are_no_parameters(kind: str) -> None:
    net = nn.Sequential(nn.Embedding(7, 6), nn.Flatten(), nn.Linear(30, 2)).double()
    ids, extra = torch.randint(7, (8, 5)), torch.randn(8, 2, dtype=torch.float64)
    if kind == "input":
        extra.requires_grad_()
    else:
        net[0].weight.requires_grad_(False)
        net[0].register_forward_hook(lambda module, inputs, output: output.requires_grad_(True))
    parameters = [p for p in net.parameters() if p.requires_grad]
    transform = AdvantageTransform(net)
    with transform.record():
        log_prob = torch.log_softmax(net(ids) + extra, -1)[:, 0]
    transform(log_prob, torch.ones_like(log_prob))
    h = dense.score_matrix(log_prob, parameters)
    assert relative_error(transform.gram(), h @ h.T) <= 1e-10


def test_reentrant_checkpoints_are_told_what_to_do() -> None:
    net, x = nn.Linear(3, 2), torch.randn(4, 3, requires_grad=True)
    transform = AdvantageTransform(net)
    with transform.record():
        log_prob = checkpoint(net, x, use_reentrant=True).sum(1)
    with pytest.raises(CaptureError, match="use_reentrant=False"):
        transform(log_prob, torch.ones(4))
