"""Cases: layers that run over several tokens of a sample, run more than once, or share a weight."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Categorical

from ratpg.natgrad import PerSampleParameter

from .case import BATCH, Case, case, gaussian, gaussian_case, perceptron


def _token_net(d_in: int = 6) -> nn.Sequential:
    return nn.Sequential(nn.Linear(d_in, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 3))


@case
def few_tokens() -> Case:
    # T = 2 with wide layers: the contraction is the cheaper way.
    actor = _token_net(16)
    return gaussian_case(actor, (2, 16), forward=lambda obs: actor(obs).sum(1))


@case
def many_tokens() -> Case:
    # T = 20 with narrow layers: the rows are the cheaper way.
    actor = _token_net()
    return gaussian_case(actor, (20, 6), forward=lambda obs: actor(obs).mean(1))


@case
def frozen_weight_over_tokens() -> Case:
    actor = _token_net()
    actor[2].weight.requires_grad_(False)
    return gaussian_case(actor, (4, 6), forward=lambda obs: actor(obs).mean(1))


@case
def grid_of_patches() -> Case:
    actor = _token_net()
    return gaussian_case(actor, (2, 3, 6), forward=lambda obs: actor(obs).mean((1, 2)))


@case
def folded_tokens() -> Case:
    actor = _token_net()
    return gaussian_case(actor, (5, 6), forward=lambda obs: actor(obs.flatten(0, 1)).view(len(obs), 5, 3).mean(1))


@case
def sequence_first() -> Case:
    actor = _token_net()
    return gaussian_case(actor, (5, 6), forward=lambda obs: actor(obs.transpose(0, 1)).mean(0))


@case
def module_called_twice() -> Case:
    actor = perceptron(6, 8, 3)
    return gaussian_case(actor, (2, 6), forward=lambda obs: actor(obs[:, 0]) - 2 * actor(obs[:, 1]))


@case
def module_called_three_times() -> Case:
    actor = nn.ModuleList([nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)])

    def forward(obs: Tensor) -> Tensor:
        h = actor[0](obs)
        for _ in range(3):
            h = actor[1](h).tanh()
        return actor[2](h)

    return gaussian_case(actor, forward=forward)


@case
def per_sample_parameter_called_twice() -> Case:
    actor, shift = nn.Linear(6, 3), PerSampleParameter(torch.randn(3))
    data = torch.randn(BATCH, 6), torch.randn(BATCH, 3)
    return Case([actor, shift], data, lambda obs, a: gaussian((actor(obs) + shift(obs)).tanh() * shift(obs), a))


@case
def tied_linears() -> Case:
    actor = nn.Sequential(nn.Linear(6, 6, bias=False), nn.Tanh(), nn.Linear(6, 6, bias=False), nn.Linear(6, 3))
    actor[2].weight = actor[0].weight
    return gaussian_case(actor)


@case
def tied_linears_with_biases_of_their_own() -> Case:
    actor = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.Linear(6, 3))
    actor[2].weight = actor[0].weight
    return gaussian_case(actor)


@case
def tied_embedding_and_output() -> Case:
    actor = nn.ModuleList([nn.Embedding(7, 5), nn.Linear(5, 5)])

    def compute(tokens: Tensor, action: Tensor) -> Tensor:
        h = actor[1](actor[0](tokens).mean(1)).tanh()
        return Categorical(logits=F.linear(h, actor[0].weight)).log_prob(action)

    return Case(actor, (torch.randint(7, (BATCH, 3)), torch.randint(7, (BATCH,))), compute)


@case
def weight_used_outside_its_module() -> Case:
    actor = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    return gaussian_case(actor, forward=lambda obs: actor(F.linear(actor[0](obs).tanh(), actor[0].weight.T)))


@case
def context_common_to_all_samples() -> Case:
    # A Linear over six learned codes, whatever the batch: its rows belong to no sample in particular.
    actor = nn.ModuleDict({"query": perceptron(6, 8, 5), "key": nn.Linear(4, 5)})
    codes = torch.randn(6, 4)
    data = torch.randn(BATCH, 6), torch.randint(6, (BATCH,)), codes

    def compute(obs: Tensor, action: Tensor, codes: Tensor) -> Tensor:
        return Categorical(logits=actor["query"](obs) @ actor["key"](codes).T).log_prob(action)

    return Case(actor, data, compute)
