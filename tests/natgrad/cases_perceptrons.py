"""Cases: perceptrons, what may be frozen in them, and the layers that go between."""

import torch.nn.functional as F
from torch import Tensor, nn

from .case import Case, case, gaussian_case, perceptron


@case
def relu_mlp() -> Case:
    return gaussian_case(perceptron(6, 16, 8, 3, activation=nn.ReLU))


@case
def inplace_relu_mlp() -> Case:
    # Each layer's output is overwritten right after its hook has run.
    return gaussian_case(perceptron(6, 16, 8, 3, activation=lambda: nn.ReLU(inplace=True)))


@case
def tanh_mlp() -> Case:
    return gaussian_case(perceptron(6, 16, 8, 3))


@case
def mlp_without_biases() -> Case:
    return gaussian_case(perceptron(6, 16, 8, 3, bias=False))


@case
def frozen_layer() -> Case:
    actor = perceptron(6, 16, 8, 3)
    actor[2].requires_grad_(False)
    return gaussian_case(actor)


@case
def frozen_weight_trainable_bias() -> Case:
    actor = perceptron(6, 16, 8, 3)
    actor[2].weight.requires_grad_(False)
    return gaussian_case(actor)


@case
def trainable_weight_frozen_bias() -> Case:
    actor = perceptron(6, 16, 8, 3)
    actor[2].bias.requires_grad_(False)
    return gaussian_case(actor)


@case
def layer_norm_mlp() -> Case:
    return gaussian_case(nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 3)))


@case
def residual_mlp() -> Case:
    actor = nn.ModuleList([nn.Linear(6, 8), perceptron(8, 8, 8), nn.Linear(8, 3)])

    def forward(obs: Tensor) -> Tensor:
        h = actor[0](obs)
        return actor[2](h + actor[1](h))

    return gaussian_case(actor, forward=forward)


@case
def batch_norm_in_eval_mode() -> Case:
    return gaussian_case(nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3)).eval())


@case
def dropout_in_eval_mode() -> Case:
    return gaussian_case(nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Tanh(), nn.Linear(8, 3)).eval())


class StandardizedLinear(nn.Linear):
    """A Linear whose forward is not Linear's: the weight's rows are centred first."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight - self.weight.mean(1, keepdim=True), self.bias)


@case
def linear_with_a_forward_of_its_own() -> Case:
    return gaussian_case(nn.Sequential(StandardizedLinear(6, 8), nn.Tanh(), nn.Linear(8, 3)))


@case
def linear_called_by_keyword() -> Case:
    actor = nn.Linear(6, 3)
    return gaussian_case(actor, forward=lambda obs: actor(input=obs))
