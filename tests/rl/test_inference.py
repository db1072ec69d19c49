"""`for_inference`: the network's own outputs, from a path without modules."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from ratpg.rl.networks.inference import for_inference
from ratpg.rl.networks.mlp import mlp

NETWORKS = {
    "relu": [*mlp(5, (16, 8), "relu"), nn.Linear(8, 3)],
    "tanh": [*mlp(5, (16, 8), "tanh"), nn.Linear(8, 3)],
    "no bias": [nn.Linear(5, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False)],
    "linear": [nn.Linear(5, 3)],
    "ends in an activation": [nn.Linear(5, 3), nn.Tanh()],
    "begins with an activation": [nn.Tanh(), nn.Linear(5, 3)],
    "two activations": [nn.Linear(5, 8), nn.ReLU(), nn.Tanh(), nn.Linear(8, 3)],
    "unknown layer": [nn.Linear(5, 8), nn.LayerNorm(8), nn.Linear(8, 3)],
}


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_are_the_modules_own(name: str) -> None:
    layers = NETWORKS[name]
    network = for_inference(layers)
    for size in (4, 7, 4):
        x = torch.randn(size, 5)
        given = x.clone()
        with torch.inference_mode():
            assert_close(network(x), nn.Sequential(*layers)(x))
        assert torch.equal(x, given)


def test_weights_are_those_of_the_moment_it_is_made() -> None:
    layers = mlp(5, (8,), "relu")
    x = torch.randn(4, 5)
    before = for_inference(list(layers))(x).clone()
    with torch.no_grad():
        layers[0].weight.mul_(2)
    assert not torch.equal(for_inference(list(layers))(x), before)


def test_a_subclass_with_a_forward_of_its_own_is_called() -> None:
    class Doubled(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    layer = Doubled(5, 3)
    x = torch.randn(4, 5)
    assert_close(for_inference([layer])(x), layer(x))
