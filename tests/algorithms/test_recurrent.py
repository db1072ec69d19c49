"""Recurrent policies: a sequence's steps are samples of one recorded forward pass."""

import pytest
import torch
from torch import nn

from ratpg.algorithms import RAT, RATConfig
from ratpg.algorithms.checks import BadConfig
from ratpg.natgrad import dense

from .problem import ENVS, RECURRENT, make_batch, make_policy

DAMPING, STEP = 0.05, 0.2


def test_rat_takes_the_dense_natural_gradient_of_whole_sequences() -> None:
    policy, naive = make_policy(RECURRENT), make_policy(RECURRENT)
    batch = make_batch(policy)
    config = RATConfig(
        damping=DAMPING, step_size=STEP, epochs=1, minibatches=2, entropy_coefficient=0.0, weight_decay=0.0
    )
    before = nn.utils.parameters_to_vector(policy.actor.parameters()).detach()
    RAT(policy, config, torch.Generator().manual_seed(7)).update(batch)

    parameters = list(naive.actor.parameters())
    for envs in torch.randperm(ENVS, generator=torch.Generator().manual_seed(7)).tensor_split(2):
        part = batch[envs]
        log_prob = naive.actor(part.observations).log_prob(part.actions)
        scores = torch.stack(
            [
                torch.cat([g.flatten() for g in torch.autograd.grad(row, parameters, retain_graph=True)])
                for row in log_prob
            ]
        )
        ratio = (log_prob.detach() - part.log_prob).exp()
        y = part.advantages
        y = (y - y.mean()) / y.std(correction=0)
        transformed = dense.transformed_advantage(scores, y, ratio, DAMPING)
        vector = nn.utils.parameters_to_vector(parameters).detach()
        nn.utils.vector_to_parameters(vector + STEP * scores.T @ (ratio * transformed) / len(y), parameters)
    actual, expected = (nn.utils.parameters_to_vector(p.actor.parameters()).detach() for p in (policy, naive))
    assert ((actual - expected).norm() / (expected - before).norm()).item() < 1e-7  # a root mean square has 1e-8 added


def test_curvature_of_some_rows_is_refused_since_the_first_ones_are_the_first_steps() -> None:
    with pytest.raises(BadConfig, match="curvature_rows needs a policy without an LSTM"):
        RAT(make_policy(RECURRENT), RATConfig(curvature_rows=8), torch.Generator())
