"""Backpropagation written out against autograd's."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from ratpg.natgrad import Linear
from ratpg.rl.networks.perceptron import perceptron_layers, squared_error_gradients

NETWORKS = {
    "relu": lambda: [Linear(5, 7), nn.ReLU(), nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 1)],
    "tanh without biases": lambda: [nn.Linear(5, 7, bias=False), nn.Tanh(), nn.Linear(7, 1, bias=False)],
    "linear": lambda: [nn.Linear(5, 1)],
    "two in a row": lambda: [nn.Linear(5, 3), nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)],
}
IMPURE = {
    "nothing": lambda: [],
    "an activation first": lambda: [nn.ReLU(), nn.Linear(5, 1)],
    "two activations": lambda: [nn.Linear(5, 5), nn.ReLU(), nn.Tanh(), nn.Linear(5, 1)],
    "a norm": lambda: [nn.Linear(5, 5), nn.LayerNorm(5), nn.Linear(5, 1)],
    "another activation": lambda: [nn.Linear(5, 5), nn.GELU(), nn.Linear(5, 1)],
}


@pytest.fixture(params=["all", "plain", "none"])
def _library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ratpg.natgrad.products.mkls", request.param)


@pytest.mark.usefixtures("_library")
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_autograds(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(*NETWORKS[name]()).to(dtype)
    inputs, targets = torch.randn(11, 5, dtype=dtype), torch.randn(11, dtype=dtype)
    expected = functional.mse_loss(network(inputs).squeeze(1), targets)
    gradients = torch.autograd.grad(expected, list(network.parameters()))
    layers = perceptron_layers(list(network))
    assert layers is not None
    for _ in range(2):  # and they replace those of the step before
        loss = squared_error_gradients(layers, inputs, targets)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close([parameter.grad for parameter in network.parameters()], list(gradients))


@pytest.mark.usefixtures("_library")
def test_a_fused_optimiser_takes_the_same_step_from_them() -> None:
    torch.manual_seed(0)
    inputs, targets = torch.randn(64, 3), torch.randn(64)
    stepped = []
    for written_out in (True, False):
        torch.manual_seed(1)
        network = nn.Sequential(Linear(3, 40), nn.ReLU(), Linear(40, 40), nn.ReLU(), Linear(40, 1))
        optimizer = torch.optim.Adam(network.parameters(), lr=0.1, fused=True)
        for _ in range(3):
            if written_out:
                squared_error_gradients(perceptron_layers(list(network)), inputs, targets)
            else:
                optimizer.zero_grad()
                functional.mse_loss(network(inputs).squeeze(1), targets).backward()
            optimizer.step()
        stepped.append([parameter.detach().clone() for parameter in network.parameters()])
    torch.testing.assert_close(*stepped, rtol=1e-3, atol=1e-3)


def test_a_frozen_parameter_gets_no_gradient() -> None:
    network = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 1))
    network[0].weight.requires_grad_(False)
    network[2].bias.requires_grad_(False)
    squared_error_gradients(perceptron_layers(list(network)), torch.randn(4, 5), torch.randn(4))
    assert [p.grad is None for p in network.parameters()] == [True, False, False, True]


@pytest.mark.parametrize("name", IMPURE)
def test_what_is_no_plain_perceptron_is_left_alone(name: str) -> None:
    assert perceptron_layers(IMPURE[name]()) is None


LISTENERS = {
    "of calls": lambda layer: layer.register_forward_hook(lambda module, args, output: None),
    "before calls": lambda layer: layer.register_forward_pre_hook(lambda module, args: None),
    "of gradients": lambda layer: layer.register_full_backward_hook(lambda module, before, after: None),
    "before gradients": lambda layer: layer.register_full_backward_pre_hook(lambda module, gradients: None),
    "of a parameter": lambda layer: layer.weight.register_hook(lambda gradient: None),
    "of what a parameter gathers": lambda layer: layer.bias.register_post_accumulate_grad_hook(lambda p: None),
}


@pytest.mark.parametrize("name", LISTENERS)
def test_a_layer_that_someone_listens_to_is_left_alone(name: str) -> None:
    layer = nn.Linear(5, 1)
    assert perceptron_layers([layer]) is not None
    handle = LISTENERS[name](layer)
    assert perceptron_layers([layer]) is None
    handle.remove()
    assert perceptron_layers([layer]) is not None


def test_a_parametrised_layer_is_left_alone() -> None:
    assert perceptron_layers([nn.utils.parametrizations.weight_norm(nn.Linear(5, 1))]) is None


def test_a_layer_with_a_forward_of_its_own_is_left_alone() -> None:
    class Doubled(nn.Linear):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(inputs)

    assert perceptron_layers([Doubled(5, 1)]) is None
