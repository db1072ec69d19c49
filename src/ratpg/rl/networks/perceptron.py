"""Plain multi-layer perceptrons as chains of matrix products, without a graph: what small batches are fastest by."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ratpg.natgrad import Linear
from ratpg.natgrad.products import Activation, product

ACTIVATIONS: dict[type[nn.Module], Activation] = {nn.ReLU: "relu", nn.Tanh: "tanh"}


@dataclass(frozen=True)
class PerceptronLayer:
    """A linear layer (or a subclass that only adds to it) and the activation behind it."""

    linear: nn.Linear
    activation: Activation


def perceptron_layers(modules: Sequence[nn.Module]) -> list[PerceptronLayer] | None:
    """The layers of modules that are called one after the other; None where they are no plain perceptron.

    Plain are linear layers, each with at most one activation of `ACTIVATIONS` behind it, without parametrizations and
    without hooks on their calls or parameters.
    """
    layers: list[PerceptronLayer] = []
    for module in modules:
        if _listened(module):
            return None
        if isinstance(module, nn.Linear) and _plain(module):
            layers.append(PerceptronLayer(module, "none"))
        elif type(module) in ACTIVATIONS and layers and layers[-1].activation == "none":
            layers[-1] = PerceptronLayer(layers[-1].linear, ACTIVATIONS[type(module)])
        else:
            return None
    return layers or None


def _plain(linear: nn.Linear) -> bool:
    """Whether it does what `nn.Linear` does, with weights that are its own parameters."""
    own = "weight" in linear._parameters and "bias" in linear._parameters
    return own and type(linear).forward in (nn.Linear.forward, Linear.forward)


def _listened(module: nn.Module) -> bool:
    """Whether somebody's hook wants to know of a module's calls, or of its parameters' gradients."""
    tables: list[Any] = [
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
    ]
    for parameter in module.parameters(recurse=False):
        tables += [parameter._backward_hooks, parameter._post_accumulate_grad_hooks]
    return any(tables)


@torch.no_grad()
def forward(layers: Sequence[PerceptronLayer], inputs: Tensor) -> list[Tensor]:
    """The inputs ``[B, d_in]``, and what each layer makes of them, the outputs last."""
    outputs = [inputs]
    for layer in layers:
        outputs.append(product(outputs[-1], layer.linear.weight, layer.linear.bias, layer.activation))
    return outputs


@torch.no_grad()
def backpropagate(layers: Sequence[PerceptronLayer], outputs: Sequence[Tensor], gradient: Tensor) -> None:
    """Leaves in the parameters' ``.grad`` what autograd would, to rounding, in half the time.

    Args:
        layers: the perceptron.
        outputs: of `forward`.
        gradient: of a loss in the last of them, ``[B, d_out]``.
    """
    for index in reversed(range(len(layers))):
        linear, activation = layers[index].linear, layers[index].activation
        # In place where it is ours: memory that is new each time costs more than the arithmetic.
        into = {} if index == len(layers) - 1 else {"grad_input": gradient}
        if activation == "relu":
            gradient = torch.ops.aten.threshold_backward(gradient, outputs[index + 1], 0, **into)
        elif activation == "tanh":
            gradient = torch.ops.aten.tanh_backward(gradient, outputs[index + 1], **into)
        if linear.weight.requires_grad:
            linear.weight.grad = product(gradient.T, outputs[index].T)
        if linear.bias is not None and linear.bias.requires_grad:
            linear.bias.grad = gradient.sum(0)
        if index > 0:
            gradient = product(gradient, linear.weight.T)


@torch.no_grad()
def squared_error_gradients(layers: Sequence[PerceptronLayer], inputs: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error of a perceptron with one output, whose gradients are left in the parameters' ``.grad``.

    Args:
        layers: the perceptron, the last layer of width 1.
        inputs: ``[B, d_in]``.
        targets: ``[B]``.

    Returns:
        The mean squared error, a scalar.
    """
    outputs = forward(layers, inputs)
    errors = outputs[-1].squeeze(1) - targets
    backpropagate(layers, outputs, (errors * (2 / len(errors)))[:, None])
    return errors.square().mean()
