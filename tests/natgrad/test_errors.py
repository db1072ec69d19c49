"""What cannot give a right natural gradient is refused, in words that name the module or parameter and the remedy."""

import math

import pytest
import torch
from torch import Tensor, nn

from ratpg.natgrad import AdvantageTransform, CaptureError, NotFinite

from .case import gaussian
from .cases import CASES
from .oracle import problem, record, relative_error

TANH = "tanh_mlp"


def _recorded() -> tuple[AdvantageTransform, Tensor, Tensor]:
    """A transform, a recorded log-probability ``[12]`` and advantages that fit it."""
    transform, log_prob = record(CASES[TANH]())
    return transform, log_prob, problem(TANH).advantages


# --- modules in training mode -----------------------------------------------------------------------------------------

RANDOM = {
    "BatchNorm1d": nn.BatchNorm1d(6),
    "Dropout": nn.Dropout(0.1),
    "AlphaDropout": nn.AlphaDropout(0.1),
    "MultiheadAttention": nn.MultiheadAttention(6, 2, dropout=0.1),
    "RReLU": nn.RReLU(),
    "LSTM": nn.LSTM(6, 6, num_layers=2, dropout=0.1),
}


@pytest.mark.parametrize("kind", RANDOM)
def test_modules_whose_scores_are_random_or_coupled_are_named(kind: str) -> None:
    actor = nn.ModuleDict({"body": nn.Linear(6, 6), "noisy": RANDOM[kind]})
    with pytest.raises(CaptureError, match=rf"'noisy' \({kind}\)"), AdvantageTransform(actor).record():
        pass
    assert not actor["body"]._forward_hooks
    with AdvantageTransform(actor.eval()).record():
        pass
    actor.train()


def test_dropout_of_rate_zero_is_no_dropout() -> None:
    with AdvantageTransform(nn.Sequential(nn.Linear(6, 3), nn.Dropout(0.0)).train()).record():
        pass


def test_batch_norm_without_running_statistics_is_refused_even_in_eval_mode() -> None:
    # It has no statistics but those of the batch.
    actor = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8, track_running_stats=False)).eval()
    with pytest.raises(CaptureError, match=r"'1' \(BatchNorm1d\)"), AdvantageTransform(actor).record():
        pass


@pytest.mark.parametrize("cls", [nn.Embedding, nn.EmbeddingBag])
def test_embedding_whose_gradient_is_weighed_by_the_batch_is_refused(cls: type[nn.Module]) -> None:
    # What autograd returns for it is the gradient of no log-probability.
    actor = nn.ModuleDict({"ids": cls(5, 3, scale_grad_by_freq=True), "head": nn.Linear(3, 1)})
    message = rf"'ids' \({cls.__name__}\).*scale_grad_by_freq"
    with pytest.raises(CaptureError, match=message), AdvantageTransform(actor).record():
        pass


# --- what log_prob depends on -----------------------------------------------------------------------------------------


def test_log_prob_of_another_forward_pass_is_refused() -> None:
    case = CASES[TANH]()
    transform, recorded = record(case)
    with pytest.raises(CaptureError, match="record"):
        transform(case.log_prob(), torch.ones_like(recorded))


def test_log_prob_is_refused_where_nothing_was_recorded() -> None:
    case = CASES[TANH]()
    log_prob = case.log_prob()
    with pytest.raises(CaptureError, match="record"):
        AdvantageTransform(case.actor)(log_prob, torch.ones_like(log_prob))


def test_log_prob_without_a_graph_is_refused() -> None:
    case = CASES[TANH]()
    transform = AdvantageTransform(case.actor)
    with transform.record(), torch.no_grad():
        log_prob = case.log_prob()
    with pytest.raises(CaptureError, match="no_grad"):
        transform(log_prob, torch.ones_like(log_prob))


@pytest.mark.parametrize("extra", [nn.Linear(2, 2), nn.ConvTranspose1d(2, 2, 1)], ids=["layer", "unknown module"])
def test_parameter_that_log_prob_does_not_depend_on_is_named(extra: nn.Module) -> None:
    case = CASES[TANH]()
    transform = AdvantageTransform([case.actor, extra.double()])
    with transform.record():
        log_prob = case.log_prob()
    with pytest.raises(CaptureError, match=r"'1\.weight'"):
        transform(log_prob, torch.ones_like(log_prob))


def test_value_head_that_the_policy_does_not_use_is_named() -> None:
    case = CASES["shared_trunk"]()
    actor, (obs, action, _) = case.actor, case.data
    transform = AdvantageTransform(actor)
    with transform.record():
        h = actor["trunk"](obs).tanh()
        actor["value"](h)
        log_prob = gaussian(actor["policy"](h), action)
    with pytest.raises(CaptureError, match=r"'value\.weight'"):
        transform(log_prob, torch.ones_like(log_prob))


@pytest.mark.parametrize("shape", [(3,), (1, 3), ()])
def test_log_std_that_was_not_handed_over_is_described_by_its_shape(shape: tuple[int, ...]) -> None:
    case = CASES[TANH]()
    log_std = nn.Parameter(torch.zeros(shape, dtype=torch.float64))
    transform = AdvantageTransform(case.actor)
    with transform.record():
        log_prob = gaussian(case.actor(case.data[0]), case.data[1], log_std)
    for _ in range(2):  # asking again does not make it right
        with pytest.raises(CaptureError) as raised:
            transform(log_prob, torch.ones_like(log_prob))
        assert f"shape {list(shape)}" in str(raised.value)


def test_log_std_unfrozen_after_a_first_good_step_is_noticed() -> None:
    case = CASES["handed_over_log_std"]()
    log_std = case.actor[1]
    log_std.requires_grad_(False)
    transform, log_prob = record(case)
    transform(log_prob, torch.ones_like(log_prob))
    log_std.requires_grad_(True)
    with transform.record():
        log_prob = case.log_prob()
    with pytest.raises(CaptureError, match="shape"):
        transform(log_prob, torch.ones_like(log_prob))


def test_parameter_unfrozen_after_a_first_good_step_is_noticed() -> None:
    case = CASES["frozen_weight_trainable_bias"]()
    transform, log_prob = record(case)
    transform(log_prob, torch.ones_like(log_prob))
    case.actor[2].weight.requires_grad_(True)
    with transform.record():
        log_prob = case.log_prob()
    with pytest.raises(CaptureError, match="shape"):
        transform(log_prob, torch.ones_like(log_prob))


def test_parameter_frozen_after_construction_is_named() -> None:
    case = CASES[TANH]()
    transform, log_prob = record(case)
    transform(log_prob, torch.ones_like(log_prob))
    case.actor[2].weight.requires_grad_(False)
    with transform.record():
        log_prob = case.log_prob()
    with pytest.raises(CaptureError, match=r"'2\.weight'"):
        transform(log_prob, torch.ones_like(log_prob))


def test_input_changed_in_place_after_its_module_ran_is_refused() -> None:
    case = CASES[TANH]()
    obs, action = (t.clone() for t in case.data)
    transform = AdvantageTransform(case.actor)
    with transform.record():
        log_prob = case.compute(obs, action)
    obs.add_(1.0)
    with pytest.raises(CaptureError, match="module '0' was changed in place"):
        transform(log_prob, torch.ones_like(log_prob))


def test_gram_before_any_call_is_refused() -> None:
    transform, log_prob, y = _recorded()
    with pytest.raises(CaptureError, match="nothing recorded"):
        transform.gram()
    transform(log_prob, y)
    assert transform.gram().shape == (12, 12)
    with transform.record():
        pass
    with pytest.raises(CaptureError, match="nothing recorded"):
        transform.gram()


# --- arguments --------------------------------------------------------------------------------------------------------


def test_log_prob_that_is_no_vector_is_refused() -> None:
    transform, log_prob, y = _recorded()
    for wrong, advantages in ((log_prob.sum(), y.sum()), (log_prob[:, None], y[:, None])):
        with pytest.raises(ValueError, match="log_prob"):
            transform(wrong, advantages)


def test_arguments_that_are_no_tensors_are_named() -> None:
    transform, log_prob, y = _recorded()
    for arguments, name in (((log_prob, y.numpy()), "advantages"), ((log_prob, y, 1.0), "weights")):
        with pytest.raises(TypeError, match=f"{name} must be a tensor"):
            transform(*arguments)
    with pytest.raises(TypeError, match="targets must be a tensor"):
        transform.solve(log_prob, y[:, None].tolist())


def test_a_state_dict_and_a_damping_that_is_no_number_are_refused() -> None:
    with pytest.raises(TypeError, match="hand over the module itself, and no OrderedDict"):
        AdvantageTransform(nn.Linear(2, 2).state_dict())
    with pytest.raises(ValueError, match="damping must be a number, got str"):
        AdvantageTransform(nn.Linear(2, 2), "high")


def test_a_weight_whose_share_underflows_leaves_its_advantage_finite() -> None:
    # exp(-100) is above 0, and exp(-100)/1024 is not.
    net, x, y, log_ratio = nn.Linear(4, 2), torch.randn(1024, 4), torch.randn(1024), torch.zeros(1024)
    log_ratio[7] = -100.0
    advantages = []
    for dtype in (torch.float32, torch.float64):
        net = net.to(dtype)
        transform = AdvantageTransform(net)
        with transform.record():
            log_prob = torch.log_softmax(net(x.to(dtype)), 1)[:, 0]
        advantages.append(transform(log_prob, y.to(dtype), log_ratio.to(dtype).exp()).advantage)
    assert relative_error(advantages[0].double(), advantages[1]) <= 1e-4
    assert abs(advantages[0][7].double() / advantages[1][7] - 1) <= 1e-4


def test_advantages_and_weights_must_have_the_shape_of_log_prob() -> None:
    transform, log_prob, y = _recorded()
    with pytest.raises(ValueError, match=r"\[12\], \[11\], \[11\]"):
        transform(log_prob, y[1:])
    with pytest.raises(ValueError, match=r"\[12\], \[12, 1\], \[12, 1\]"):
        transform(log_prob, y[:, None])
    with pytest.raises(ValueError, match=r"\[12\], \[12\], \[1\]"):
        transform(log_prob, y, torch.ones(1, dtype=torch.float64))


def test_advantages_and_weights_must_have_the_dtype_of_log_prob() -> None:
    transform, log_prob, y = _recorded()
    with pytest.raises(ValueError, match="float32"):
        transform(log_prob, y.float())
    with pytest.raises(ValueError, match="float32"):
        transform(log_prob, y, torch.ones(12, dtype=torch.float32))


@pytest.mark.parametrize(("weight", "message"), [(0.0, "positive"), (-1.0, "positive"), (math.nan, "not finite")])
def test_weights_must_be_positive(weight: float, message: str) -> None:
    transform, log_prob, y = _recorded()
    weights = torch.ones_like(y)
    weights[3] = weight
    with pytest.raises(ValueError, match=message):
        transform(log_prob, y, weights)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_input_that_is_not_finite_is_refused(value: float) -> None:
    transform, log_prob, y = _recorded()
    bad = y.clone()
    bad[3] = value
    with pytest.raises(ValueError, match="not finite"):
        transform(log_prob, bad)
    with pytest.raises(ValueError, match=r"positive|not finite"):
        transform(log_prob, y, bad.abs() + 1)


def test_network_that_is_not_finite_is_refused() -> None:
    case = CASES[TANH]()
    assert isinstance(case.actor, nn.Sequential)
    case.actor[2].weight.data[0, 0] = math.nan
    transform = AdvantageTransform(case.actor)
    with transform.record():
        # The distribution refuses such a mean by itself; a log-probability of one's own may not.
        log_prob = -(case.actor(case.data[0]) - case.data[1]).square().sum(1)
    with pytest.raises(NotFinite, match="log_prob is not finite"):
        transform(log_prob, problem(TANH).advantages)


def test_gradients_that_are_not_finite_are_refused() -> None:
    layer = nn.Linear(6, 3)
    transform = AdvantageTransform(layer)
    with transform.record():
        log_prob = layer(torch.ones(4, 6)).mul(0.0).sum(1).sqrt()  # 0, whose derivative is infinite
    with pytest.raises(NotFinite, match="gradient of 'weight' is not finite"):
        transform(log_prob, torch.ones(4))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_log_prob_in_half_precision_is_refused(dtype: torch.dtype) -> None:
    layer = nn.Linear(6, 3).to(dtype)
    transform = AdvantageTransform(layer)
    with transform.record():
        log_prob = layer(torch.ones(4, 6, dtype=dtype)).sum(1)
    with pytest.raises(ValueError, match=r"float32 or float64.*\.float\(\)"):
        transform(log_prob, torch.ones_like(log_prob))


@pytest.mark.parametrize("previous", [{"weight": torch.zeros(3, 6)}, {"weight": torch.zeros(6, 3)}, {}])
def test_a_carried_direction_must_be_one_of_these_parameters(previous: dict[str, Tensor]) -> None:
    layer = nn.Linear(6, 3)
    transform = AdvantageTransform(layer)
    with transform.record():
        log_prob = layer(torch.ones(4, 6)).sum(1)
    with pytest.raises(ValueError, match=r"previous.*\[3, 6\] of 'weight'|previous.*\[3\] of 'bias'"):
        transform(log_prob, torch.ones_like(log_prob), previous=previous, decay=0.5)


def test_a_plain_tensor_is_no_part_of_an_actor() -> None:
    with pytest.raises(TypeError, match=r"nn\.Parameters; got Tensor"):
        AdvantageTransform([nn.Linear(6, 3), torch.zeros(3, requires_grad=True)])


@pytest.mark.parametrize("decay", [-0.1, 1.1, math.nan])
def test_decay_must_be_in_the_unit_interval(decay: float) -> None:
    transform, log_prob, y = _recorded()
    with pytest.raises(ValueError, match="decay"):
        transform(log_prob, y, decay=decay)


@pytest.mark.parametrize("damping", [-0.1, math.nan, math.inf])
def test_damping_must_be_finite_and_not_negative(damping: float) -> None:
    with pytest.raises(ValueError, match="damping"):
        AdvantageTransform(nn.Linear(6, 3), damping=damping)


@pytest.mark.parametrize(
    "actor", [nn.Tanh(), nn.Linear(6, 3).requires_grad_(False), []], ids=["none", "frozen", "empty"]
)
def test_something_must_be_trainable(actor: nn.Module | list[nn.Module]) -> None:
    with pytest.raises(ValueError, match="requires a gradient"):
        AdvantageTransform(actor)


def test_a_pass_recorded_without_a_graph_is_described() -> None:
    case = CASES["owned_log_std"]()
    transform = AdvantageTransform(case.actor)
    with transform.record(), torch.no_grad():
        log_prob = case.log_prob()
    with pytest.raises(CaptureError, match="no_grad"):
        transform(log_prob, torch.ones_like(log_prob))


def test_complex_parameters_are_refused() -> None:
    with pytest.raises(TypeError, match="'1' is complex"):
        AdvantageTransform([nn.Linear(6, 3), nn.Parameter(torch.ones(3, dtype=torch.complex64))])


def test_gram_after_a_call_that_failed_is_refused() -> None:
    transform, log_prob, y = _recorded()
    transform(log_prob, y)
    with pytest.raises(ValueError, match="not finite"):
        transform.solve(log_prob, y[:, None] * math.nan)
    with pytest.raises(CaptureError, match="first"):
        transform.gram()
