"""Multi-layer perceptrons."""

import math
from typing import Literal, TypeVar

from torch import nn

from ratpg.natgrad import Linear

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)

InitialWeights = Literal["orthogonal", "pytorch"]
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh}


def mlp(d_in: int, hidden: tuple[int, ...], activation: str, weights: InitialWeights = "orthogonal") -> nn.Sequential:
    """Linear layers of the given widths, each followed by the activation; orthogonal weights have gain √2."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [initialised(Linear(d_in, width), math.sqrt(2), weights), ACTIVATIONS[activation]()]
        d_in = width
    return nn.Sequential(*layers)


def initialised(layer: Layer, gain: float, weights: InitialWeights) -> Layer:
    """The layer with orthogonal weights of this gain, or with those that PyTorch has drawn for it."""
    return orthogonal(layer, gain) if weights == "orthogonal" else layer


def orthogonal(layer: Layer, gain: float) -> Layer:
    """The layer, its weight orthogonal with this gain and its bias zero."""
    nn.init.orthogonal_(layer.weight, gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
