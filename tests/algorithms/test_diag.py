"""The diagonal preconditioner against a naive one, in float64."""

import math

import pytest
import torch
from torch import Tensor, nn

from ratpg.algorithms import Diag, DiagConfig
from ratpg.natgrad import dense
from ratpg.rl.batch import Batch
from ratpg.rl.spec import PolicySpec

from .problem import DISCRETE, GAUSSIAN, ROWS, make_batch, make_policy


def naive_update(actor: nn.Module, batch: Batch, config: DiagConfig, generator: torch.Generator) -> list[Tensor]:
    parameters, norms = list(actor.parameters()), []
    for _ in range(config.epochs):
        for index in torch.randperm(ROWS, generator=generator).tensor_split(config.minibatches):
            log_prob = actor(batch.observations[index]).log_prob(batch.actions[index])
            scores = dense.score_matrix(log_prob, parameters)
            weights = (log_prob.detach() - batch.log_prob[index]).exp().clamp(*config.ratio_bounds)
            y = batch.advantages[index] - batch.advantages[index].mean()
            y = y / (y.square().mean().sqrt() + 1e-8)
            y = y - config.entropy_coefficient * (log_prob - log_prob.mean()).detach()
            fisher = scores.T @ dense.covariance(weights) @ scores
            g = scores.T @ dense.covariance(weights) @ y / (fisher.diagonal() + config.damping)
            size = min(config.step_size, (config.max_step_norm or math.inf) / g.norm().item())
            vector = nn.utils.parameters_to_vector(parameters).detach()
            nn.utils.vector_to_parameters(vector + size * g, parameters)
            norms.append(g.norm())
    return norms


@pytest.mark.parametrize("spec", [GAUSSIAN, DISCRETE], ids=["gaussian", "categorical"])
@pytest.mark.parametrize("max_step_norm", [None, 0.05])
def test_an_update_equals_the_naive_one(spec: PolicySpec, max_step_norm: float | None) -> None:
    config = DiagConfig(minibatches=3, max_step_norm=max_step_norm, entropy_coefficient=0.1, critic_minibatches=2)
    policy, naive = make_policy(spec), make_policy(spec)
    batch = make_batch(policy)
    before = nn.utils.parameters_to_vector(policy.actor.parameters()).detach()
    metrics = Diag(policy, config, torch.Generator().manual_seed(7)).update(batch)
    norms = naive_update(naive.actor, batch, config, torch.Generator().manual_seed(7))
    actual, expected = (nn.utils.parameters_to_vector(p.actor.parameters()).detach() for p in (policy, naive))
    assert ((actual - expected).norm() / (expected - before).norm()).item() < 1e-10
    assert metrics["grad_norm"] == pytest.approx(torch.stack(norms).mean().item(), rel=1e-6)
