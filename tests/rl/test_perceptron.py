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


@pytest.mark.parametrize("name", IMPURE)
def test_what_is_no_plain_perceptron_is_left_alone(name: str) -> None:
    assert perceptron_layers(IMPURE[name]()) is None


def test_a_layer_that_someone_listens_to_is_left_alone() -> None:
    layer = nn.Linear(5, 1)
    layer.register_forward_hook(lambda module, args, output: None)
    assert perceptron_layers([layer]) is None


def test_a_layer_with_a_forward_of_its_own_is_left_alone() -> None:
    class Doubled(nn.Linear):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(inputs)

    assert perceptron_layers([Doubled(5, 1)]) is None
