"""Cases: weights that are computed from parameters, adapters beside frozen layers, and layers no factor knows."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from .case import Case, case, gaussian_case, perceptron


@case
def weight_norm() -> Case:
    actor = perceptron(6, 8, 3)
    parametrizations.weight_norm(actor[0])
    return gaussian_case(actor)


@case
def weight_norm_of_a_convolution() -> Case:
    actor = nn.Sequential(nn.Conv1d(2, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(24, 3))
    parametrizations.weight_norm(actor[0])
    return gaussian_case(actor, (2, 8))


@case
def spectral_norm_in_eval_mode() -> Case:
    actor = perceptron(6, 8, 3)
    parametrizations.spectral_norm(actor[0])
    return gaussian_case(actor.eval())


@case
def orthogonal_weight() -> Case:
    actor = perceptron(6, 6, 3)
    parametrizations.orthogonal(actor[0], orthogonal_map="cayley")
    return gaussian_case(actor)


class LoRALinear(nn.Module):
    """A frozen linear layer and a trainable one of low rank beside it (Hu et al. 2021, arXiv 2106.09685)."""

    def __init__(self, base: nn.Linear, rank: int):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Linear(base.in_features, rank, bias=False)
        self.up = nn.Linear(rank, base.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + 2.0 * self.up(self.down(x))


@case
def lora_adapters() -> Case:
    actor = perceptron(6, 8, 3)
    actor[0], actor[2] = LoRALinear(actor[0], 2), LoRALinear(actor[2], 2)
    return gaussian_case(actor)


class OneBias(nn.Module):
    """Two frozen layers that share a trainable bias, of inputs of different widths."""

    def __init__(self, wide: nn.Module, narrow: nn.Module):
        super().__init__()
        self.wide, self.narrow = wide, narrow
        for part in (wide, narrow):
            part.weight.requires_grad_(False)
        narrow.bias = wide.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.wide(x).tanh() * self.narrow(x[:, :2]).tanh()


@case
def one_bias_of_frozen_layers() -> Case:
    return gaussian_case(nn.Sequential(OneBias(nn.Linear(6, 8), nn.Linear(2, 8)), nn.Linear(8, 3)))


@case
def one_bias_of_frozen_convolutions() -> Case:
    layers = OneBias(nn.Conv1d(4, 5, 3), nn.Conv1d(2, 5, 3))
    return gaussian_case(nn.Sequential(layers, nn.Flatten(), nn.Linear(30, 3)), (4, 8))


@case
def lora_adapters_over_tokens() -> Case:
    actor = perceptron(6, 8, 3)
    actor[0], actor[2] = LoRALinear(actor[0], 2), LoRALinear(actor[2], 2)
    return gaussian_case(actor, (4, 6), forward=lambda obs: actor(obs).mean(1))


class LowRankUpdate(nn.Module):
    """``W + U V``, to be registered as the parametrization of a frozen weight."""

    def __init__(self, d_out: int, d_in: int):
        super().__init__()
        self.u, self.v = nn.Parameter(torch.randn(d_out, 2)), nn.Parameter(torch.randn(2, d_in))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.u @ self.v


@case
def lora_as_a_parametrization() -> Case:
    actor = perceptron(6, 8, 3).requires_grad_(False)
    parametrize.register_parametrization(actor[0], "weight", LowRankUpdate(8, 6))
    actor[2].requires_grad_(True)
    return gaussian_case(actor)


class FunctionalLinear(nn.Module):
    """A policy of bare parameters and matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.shift = nn.Parameter(torch.randn(8, 6)), nn.Parameter(torch.randn(8))
        self.head = nn.ParameterList([torch.randn(8, 3), torch.randn(3)])

    def forward(self, obs: Tensor) -> Tensor:
        h = F.linear(obs, self.weight).tanh() * self.shift
        return h @ self.head[0] + self.head[1]


@case
def bare_parameters_in_matrix_products() -> Case:
    return gaussian_case(FunctionalLinear())


@case
def learned_slopes() -> Case:
    return gaussian_case(nn.Sequential(nn.Linear(6, 8), nn.PReLU(8), nn.Linear(8, 8), nn.PReLU(), nn.Linear(8, 3)))


@case
def bilinear_layer() -> Case:
    actor = nn.ModuleList([nn.Linear(6, 4), nn.Bilinear(4, 6, 3)])
    return gaussian_case(actor, forward=lambda obs: actor[1](actor[0](obs).tanh(), obs))


@case
def mixture_of_experts() -> Case:
    # Each sample goes to the expert that its first feature chooses, so an expert sees some of the samples.
    actor = nn.ModuleList([perceptron(6, 8, 3), perceptron(6, 8, 3), nn.Linear(6, 3)])

    def forward(obs: Tensor) -> Tensor:
        chosen = obs[:, 0] > 0
        mean = obs.new_zeros(len(obs), 3)
        mean = mean.index_put((chosen,), actor[0](obs[chosen]))
        return actor[2](obs) + mean.index_put((~chosen,), actor[1](obs[~chosen]))

    return gaussian_case(actor, forward=forward)


@case
def dictionary_of_observations() -> Case:
    # Pixels and a vector in one policy, as in dict observation spaces.
    actor = nn.ModuleDict({"pixels": nn.Conv2d(2, 4, 3), "vector": nn.Linear(5, 8), "head": perceptron(12, 8, 3)})

    def forward(obs: Tensor) -> Tensor:
        image, vector = obs[:, :32].view(-1, 2, 4, 4), obs[:, 32:]
        features = torch.cat([actor["pixels"](image).relu().mean((2, 3)), actor["vector"](vector).tanh()], 1)
        return actor["head"](features)

    return gaussian_case(actor, (37,), forward=forward)
