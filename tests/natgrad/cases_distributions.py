"""Cases: where the width of a Gaussian lives, categorical policies, several heads in one log-probability."""

import torch
from torch import Tensor, nn
from torch.distributions import Categorical

from ratpg.natgrad import PerSampleParameter

from .case import BATCH, Case, case, gaussian, gaussian_case, perceptron


class FreeWidth(nn.Module):
    """A Gaussian policy that owns a bare ``actor_logstd``, as in CleanRL."""

    def __init__(self) -> None:
        super().__init__()
        self.actor_mean = perceptron(6, 8, 3)
        self.actor_logstd = nn.Parameter(torch.full((1, 3), -0.3))

    def log_prob(self, obs: Tensor, action: Tensor) -> Tensor:
        mean = self.actor_mean(obs)
        return gaussian(mean, action, self.actor_logstd.expand_as(mean))


class FreeBoundedWidth(FreeWidth):
    """One width for all actions, squashed between bounds."""

    def __init__(self) -> None:
        super().__init__()
        self.actor_logstd = nn.Parameter(torch.tensor(0.3))

    def log_prob(self, obs: Tensor, action: Tensor) -> Tensor:
        return gaussian(self.actor_mean(obs), action, -2 + 1.5 * (self.actor_logstd.tanh() + 1))


class FreePolicy(FreeWidth):
    """A policy that does not look at the state: free mean and free width."""

    def __init__(self) -> None:
        super().__init__()
        self.actor_mean = nn.Parameter(torch.zeros(3))

    def log_prob(self, obs: Tensor, action: Tensor) -> Tensor:
        return gaussian(self.actor_mean, action, self.actor_logstd)


def _free(actor: FreeWidth, batch: int = BATCH) -> Case:
    return Case(actor, (torch.randn(batch, 6), torch.randn(batch, 3)), actor.log_prob)


@case
def owned_log_std() -> Case:
    return _free(FreeWidth())


@case
def owned_log_std_over_two_panels() -> Case:
    return _free(FreeWidth(), batch=400)


@case
def owned_scalar_log_std_in_bounds() -> Case:
    return _free(FreeBoundedWidth())


@case
def state_independent_policy() -> Case:
    return _free(FreePolicy())


@case
def frozen_log_std() -> Case:
    actor = FreeWidth()
    actor.actor_logstd.requires_grad_(False)
    return _free(actor)


@case
def handed_over_log_std() -> Case:
    actor, log_std = perceptron(6, 8, 3), nn.Parameter(torch.full((3,), -0.3))
    data = torch.randn(BATCH, 6), torch.randn(BATCH, 3)
    return Case([actor, log_std], data, lambda obs, action: gaussian(actor(obs), action, log_std))


@case
def handed_over_scalar_log_std() -> Case:
    actor, log_std = perceptron(6, 8, 3), nn.Parameter(torch.tensor(-0.3))
    data = torch.randn(BATCH, 6), torch.randn(BATCH, 3)
    return Case([actor, log_std], data, lambda obs, action: gaussian(actor(obs), action, log_std))


def _per_sample_width(value: Tensor) -> Case:
    actor, log_std = perceptron(6, 8, 3), PerSampleParameter(value)
    data = torch.randn(BATCH, 6), torch.randn(BATCH, 3)

    def compute(obs: Tensor, action: Tensor) -> Tensor:
        width = log_std(obs)
        return gaussian(actor(obs), action, width if width.ndim == 2 else width[:, None])

    return Case([actor, log_std], data, compute)


@case
def per_sample_log_std() -> Case:
    return _per_sample_width(torch.full((3,), -0.3))


@case
def per_sample_scalar_log_std() -> Case:
    return _per_sample_width(torch.tensor(-0.3))


@case
def categorical_policy() -> Case:
    actor = perceptron(6, 8, 4)
    data = torch.randn(BATCH, 6), torch.randint(4, (BATCH,))
    return Case(actor, data, lambda obs, action: Categorical(logits=actor(obs)).log_prob(action))


def _joint(policy: Tensor, value: Tensor, action: Tensor, target: Tensor) -> Tensor:
    """Policy log-probability plus unit-variance Gaussian likelihood of the value, ``[B]``."""
    return gaussian(policy, action) + gaussian(value, target, 0.0)


@case
def shared_trunk() -> Case:
    actor = nn.ModuleDict({"trunk": perceptron(6, 8, 8), "policy": nn.Linear(8, 3), "value": nn.Linear(8, 1)})

    def compute(obs: Tensor, action: Tensor, target: Tensor) -> Tensor:
        h = actor["trunk"](obs).tanh()
        return _joint(actor["policy"](h), actor["value"](h), action, target)

    return Case(actor, (torch.randn(BATCH, 6), torch.randn(BATCH, 3), torch.randn(BATCH, 1)), compute)


@case
def shared_trunk_in_two_modules() -> Case:
    trunk = perceptron(6, 8, 8)
    policy, critic = nn.Sequential(trunk, nn.Linear(8, 3)), nn.Sequential(trunk, nn.Linear(8, 1))
    data = torch.randn(BATCH, 6), torch.randn(BATCH, 3), torch.randn(BATCH, 1)
    return Case([policy, critic], data, lambda obs, a, target: _joint(policy(obs), critic(obs), a, target))


@case
def value_head_on_a_detached_trunk() -> Case:
    actor = nn.ModuleList([nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, 1)])

    def compute(obs: Tensor, action: Tensor, target: Tensor) -> Tensor:
        h = actor[0](obs).tanh()
        return _joint(actor[1](h), actor[2](h.detach()), action, target)

    return Case(actor, (torch.randn(BATCH, 6), torch.randn(BATCH, 3), torch.randn(BATCH, 1)), compute)


@case
def mixture_of_heads() -> Case:
    actor = nn.ModuleList([nn.Linear(6, 8), nn.Linear(8, 2), nn.Linear(8, 3), nn.Linear(8, 3)])

    def forward(obs: Tensor) -> Tensor:
        h = actor[0](obs).tanh()
        gate = actor[1](h).softmax(-1)
        return gate[:, :1] * actor[2](h) + gate[:, 1:] * actor[3](h)

    return gaussian_case(actor, forward=forward)
