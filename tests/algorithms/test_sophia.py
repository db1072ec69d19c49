"""Sophia's update against a naive one: samples one by one, averages and clips written out, in float64."""

from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from ratpg.algorithms import Sophia, SophiaConfig
from ratpg.natgrad import dense
from ratpg.rl.batch import Batch
from ratpg.rl.policy import ActorCritic
from ratpg.rl.spec import PolicySpec

from .problem import DISCRETE, GAUSSIAN, ROWS, make_batch, make_policy


def surrogate_loss(policy: ActorCritic, batch: Batch, index: Tensor, clip_range: float) -> tuple[Tensor, int]:
    """PPO's clipped surrogate, negative, and how many samples the clip stops."""
    y = batch.advantages[index]
    y = (y - y.mean()) / y.std(correction=0)
    log_prob = policy.actor(batch.observations[index]).log_prob(batch.actions[index])
    gains, stopped = [], 0
    for i, row in enumerate(index):
        ratio = (log_prob[i] - batch.log_prob[row]).exp()
        beyond = (y[i] > 0 and ratio > 1 + clip_range) or (y[i] < 0 and ratio < 1 - clip_range)
        bound = 1 + clip_range if y[i] > 0 else 1 - clip_range
        gains.append(y[i] * bound if beyond else y[i] * ratio)
        stopped += bool(beyond)
    return -torch.stack(gains).mean(), stopped


def diagonal(
    policy: ActorCritic, batch: Batch, index: Tensor, config: SophiaConfig, generator: torch.Generator
) -> Tensor:
    """An estimate of the Hessian's diagonal."""
    parameters = list(policy.actor.parameters())
    if config.hessian == "hutchinson":
        loss, _ = surrogate_loss(policy, batch, index, config.clip_range)
        first = torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters, create_graph=True)])
        rows = [
            torch.cat([g.flatten() for g in torch.autograd.grad(entry, parameters, retain_graph=True)])
            for entry in first
        ]
        u = [torch.randn(p.shape, generator=generator, dtype=torch.float64).flatten() for p in parameters]
        return torch.cat(u) * (torch.stack(rows) @ torch.cat(u))
    distribution = policy.actor(batch.observations[index])
    actions = distribution.detach().sample(policy.draw_noise((len(index),), generator).double())
    scores = dense.score_matrix(distribution.log_prob(actions), parameters)
    return len(index) * scores.mean(0).square()


def naive_update(
    policy: ActorCritic, batch: Batch, config: SophiaConfig, generator: torch.Generator, remaining: float
) -> tuple[int, float]:
    """Moves the actor; returns how many samples were stopped, and the share of entries whose step was not clipped."""
    parameters = list(policy.actor.parameters())
    learning_rate = config.learning_rate * (remaining if config.anneal_learning_rate else 1.0)
    m, h = torch.zeros(2, sum(p.numel() for p in parameters), dtype=torch.float64)
    count, stopped, newton = 0, 0, []
    for _ in range(config.epochs):
        for index in torch.randperm(ROWS, generator=generator).tensor_split(config.minibatches):
            if count % config.hessian_interval == 0:
                h = config.betas[1] * h + (1 - config.betas[1]) * diagonal(policy, batch, index, config, generator)
            count += 1
            loss, more = surrogate_loss(policy, batch, index, config.clip_range)
            stopped += more
            g = torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])
            g = g * min(1.0, config.max_grad_norm / (float(g.norm()) + 1e-6))
            m = config.betas[0] * m + (1 - config.betas[0]) * g
            theta = nn.utils.parameters_to_vector(parameters).detach().clone()
            for i in range(len(theta)):
                ratio = float(m[i]) / max(config.hessian_scale * float(h[i]), 1e-12)
                theta[i] -= learning_rate * max(-1.0, min(1.0, ratio))
                newton.append(abs(ratio) < 1)
            nn.utils.vector_to_parameters(theta, parameters)
    return stopped, sum(newton) / len(newton)


@pytest.mark.parametrize("spec", [GAUSSIAN, DISCRETE], ids=["gaussian", "categorical"])
@pytest.mark.parametrize("hessian", ["gauss-newton-bartlett", "hutchinson"])
@pytest.mark.parametrize("interval", [1, 2])
@pytest.mark.parametrize(("anneal", "remaining"), [(True, 1.0), (True, 0.4), (False, 0.4)])
def test_an_update_equals_the_naive_one(
    spec: PolicySpec,
    hessian: Literal["gauss-newton-bartlett", "hutchinson"],
    interval: int,
    anneal: bool,
    remaining: float,
) -> None:
    config = SophiaConfig(
        learning_rate=0.03,
        anneal_learning_rate=anneal,
        hessian=hessian,
        hessian_interval=interval,
        betas=(0.7, 0.8),
        hessian_scale=2.0,
        clip_range=0.05,
        epochs=2,
        minibatches=3,
        critic_epochs=1,
        critic_minibatches=2,
    )
    policy, naive = make_policy(spec), make_policy(spec)
    before = nn.utils.parameters_to_vector(policy.actor.parameters()).detach().clone()
    batch = make_batch(policy)
    Sophia(policy, config, torch.Generator().manual_seed(7)).update(batch, remaining)
    stopped, newton = naive_update(naive, batch, config, torch.Generator().manual_seed(7), remaining)
    assert stopped > 0
    assert 0.1 < newton < 0.9
    actual, expected = (nn.utils.parameters_to_vector(p.actor.parameters()).detach() for p in (policy, naive))
    # The update adds 1e-8 to the root mean square that advantages are divided by.
    assert ((actual - expected).norm() / (expected - before).norm()).item() < 1e-6
