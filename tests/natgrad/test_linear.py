"""`Linear` against `torch.nn.Linear`: values, derivatives of any kind, and its place among the factors."""

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from ratpg import AdvantageTransform
from ratpg.natgrad import Linear, linear, products
from ratpg.natgrad.factors import OuterFactor


@pytest.fixture(autouse=True)
def products_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "WORTHWHILE", 0)
    monkeypatch.setattr(products, "mkls", "none")


def twins(bias: bool = True) -> tuple[Linear, nn.Linear]:
    torch.manual_seed(0)
    ours, torchs = Linear(5, 4, bias=bias).double(), nn.Linear(5, 4, bias=bias).double()
    torchs.load_state_dict(ours.state_dict())
    return ours, torchs


def inputs(*shape: int) -> Tensor:
    return torch.randn(*shape, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)


def scores(layer: nn.Linear, x: Tensor) -> Tensor:
    return layer(x).tanh().sum(1)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(7,), (2, 3), ()])
def test_values_are_torchs(bias: bool, shape: tuple[int, ...]) -> None:
    ours, torchs = twins(bias)
    torch.testing.assert_close(ours(inputs(*shape)), torchs(inputs(*shape)))


def test_first_and_second_derivatives_are_right() -> None:
    ours, _ = twins()
    x, parameters = inputs(7), tuple(ours.parameters())

    def function(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return functional_call(ours, {"weight": weight, "bias": bias}, (x,)).tanh()

    assert torch.autograd.gradcheck(function, (x, *parameters))
    assert torch.autograd.gradgradcheck(function, (x, *parameters))


def test_many_backward_passes_at_once_are_torchs() -> None:
    eye = torch.eye(7, dtype=torch.float64)
    ours, torchs = (
        torch.autograd.grad(scores(layer, inputs(7)), list(layer.parameters()), eye, is_grads_batched=True)
        for layer in twins()
    )
    torch.testing.assert_close(ours, torchs)


def test_per_sample_gradients_by_vmap_are_torchs() -> None:
    x = inputs(7).detach()
    rows = []
    for layer in twins():
        values = {name: parameter.detach() for name, parameter in layer.named_parameters()}

        def score(values: dict[str, Tensor], row: Tensor, layer: nn.Linear = layer) -> Tensor:
            return functional_call(layer, values, (row[None],)).tanh().sum()

        rows.append(vmap(grad(score), in_dims=(None, 0))(values, x))
    torch.testing.assert_close(*rows)


def test_forward_derivatives_are_torchs() -> None:
    x, direction = inputs(7).detach(), inputs(7).detach().flip(0)
    values = [torch.func.jvp(layer, (x,), (direction,))[1] for layer in twins()]
    torch.testing.assert_close(*values)
    hessians = [torch.func.hessian(lambda row, layer=layer: layer(row[None]).tanh().sum())(x[0]) for layer in twins()]
    torch.testing.assert_close(*hessians)


def test_inputs_of_another_width_are_refused_as_torch_does() -> None:
    for layer in twins():
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            layer(torch.randn(7, 4, dtype=torch.float64))


def test_a_product_worth_it_takes_the_fast_way_and_autocast_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = twins()[0].float()
    x = inputs(7).float()
    assert type(ours(x).grad_fn).__name__ == "_AffineBackward"
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert ours(x).dtype == torch.bfloat16
    monkeypatch.setattr(products, "mkls", "plain")
    assert type(ours(x).grad_fn).__name__ == "AddmmBackward0"
    monkeypatch.setattr(products, "mkls", "none")
    monkeypatch.setattr(linear, "WORTHWHILE", 7 * 5 * 4 + 1)
    assert type(ours(x).grad_fn).__name__ == "AddmmBackward0"


def test_it_has_the_factor_of_a_linear_layer() -> None:
    steps = []
    for layer in twins():
        transform = AdvantageTransform(layer, 0.1)
        with transform.record():
            log_prob = scores(layer, inputs(7).detach())
        steps.append(transform(log_prob, torch.arange(7, dtype=torch.float64)))
        assert [type(factor) for factor in transform._recorder.factors(log_prob)] == [OuterFactor]
    torch.testing.assert_close(steps[0].direction, steps[1].direction)
