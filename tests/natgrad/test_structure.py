"""A structure is compared with autograd now and then, and one that is not yet shown to be right every time.

Each test first shows the transform a pass in which any reading of the layout is right, and then one in which only the
right reading is.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ratpg.natgrad import AdvantageTransform, dense

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
    # A structure is its recorded calls: this one has a call more, so it is looked at again.
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
    assert max(errors) <= 1e-10  # the fourth pass of a structure is one that is compared


def test_a_free_parameter_used_plainly_behind_a_gate_that_opens_later() -> None:
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shift = nn.Parameter(torch.arange(4.0, dtype=torch.float64))

        def forward(self, x: Tensor, gate: Tensor) -> Tensor:
            return (x + self.shift + gate * x[:, :1] * self.shift.roll(1)).square().sum(1)

    actor, data = Shifted(), torch.randn(9, 4, dtype=torch.float64)
    transform = AdvantageTransform(actor)
    for gate in (0.0, 0.0, 1.0):  # the third pass of a structure is not compared
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
