"""Updates of shared layers against naive ones with the dense joint scores, in float64."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ratpg.algorithms import RAT, Diag, DiagConfig, RATConfig
from ratpg.algorithms.checks import BadConfig
from ratpg.natgrad import dense
from ratpg.rl.batch import Batch
from ratpg.rl.policy import ActorCritic

from .problem import ROWS, SHARED, make_batch, make_policy

DAMPING, COEFFICIENT, STEP = 0.05, 0.7, 0.2


def parts(
    policy: ActorCritic, batch: Batch, index: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Joint scores, scores of the action, gradients of the value, ratio and advantages of a mini-batch."""
    parameters = list(policy.parameters())
    log_prob = policy.actor(batch.observations[index]).log_prob(batch.actions[index])
    values = policy.critic(batch.observations[index])
    noise = torch.randn(len(index), generator=generator).double()
    residuals = (policy.value_head.normalize(batch.returns[index]) - values).detach()
    of_action, of_value = torch.zeros(2, len(index), sum(p.numel() for p in parameters), dtype=torch.float64)
    for i in range(len(index)):
        for rows, scalar in ((of_action, log_prob[i]), (of_value, values[i])):
            found = torch.autograd.grad(scalar, parameters, retain_graph=True, allow_unused=True)
            rows[i] = torch.cat(
                [(torch.zeros_like(p) if g is None else g).flatten() for g, p in zip(found, parameters, strict=True)]
            )
    ratio = (log_prob.detach() - batch.log_prob[index]).exp()
    y = batch.advantages[index]
    y = (y - y.mean()) / y.std(correction=0)
    return of_action + noise[:, None] * of_value, of_action, residuals[:, None] * of_value, ratio, y


def test_rat_solves_for_advantages_and_ones_and_sums_both_parts() -> None:
    policy, naive = make_policy(SHARED), make_policy(SHARED)
    batch = make_batch(policy)
    config = RATConfig(
        damping=DAMPING, step_size=STEP, epochs=2, minibatches=3, entropy_coefficient=0.0, value_coefficient=COEFFICIENT
    )
    before = nn.utils.parameters_to_vector(policy.parameters()).detach()
    RAT(policy, config, torch.Generator().manual_seed(7)).update(batch)

    naive.value_head.update(batch.returns)
    generator = torch.Generator().manual_seed(7)
    for _ in range(2):
        for index in torch.randperm(ROWS, generator=generator).tensor_split(3):
            joint, of_action, of_error, ratio, y = parts(naive, batch, index, generator)
            for_policy = dense.transformed_advantage(joint, y, ratio, DAMPING)
            for_critic = dense.transformed_advantage(joint, torch.ones_like(y), ratio, DAMPING)
            g = (of_action.T @ (ratio * for_policy) + COEFFICIENT * of_error.T @ for_critic) / len(index)
            vector = nn.utils.parameters_to_vector(naive.parameters()).detach()
            nn.utils.vector_to_parameters(vector + STEP * g, naive.parameters())
    actual, expected = (nn.utils.parameters_to_vector(p.parameters()).detach() for p in (policy, naive))
    assert ((actual - expected).norm() / (expected - before).norm()).item() < 1e-7


def test_a_system_that_needs_more_than_cholesky_is_counted() -> None:
    policy = make_policy(SHARED)
    same = make_batch(policy)[torch.zeros(ROWS, dtype=torch.int64)]  # joint scores of rank two, and no damping
    rat = RAT(policy, RATConfig(damping=0.0, weight_decay=0.0, epochs=2, minibatches=3), torch.Generator())
    assert rat.update(same)["solver_fallbacks"] == 6


def test_diag_divides_by_the_joint_diagonal() -> None:
    policy, naive = make_policy(SHARED), make_policy(SHARED)
    batch = make_batch(policy)
    config = DiagConfig(damping=DAMPING, step_size=STEP, epochs=1, minibatches=3, value_coefficient=COEFFICIENT)
    before = nn.utils.parameters_to_vector(policy.parameters()).detach()
    Diag(policy, config, torch.Generator().manual_seed(7)).update(batch)

    naive.value_head.update(batch.returns)
    generator = torch.Generator().manual_seed(7)
    for index in torch.randperm(ROWS, generator=generator).tensor_split(3):
        joint, of_action, of_error, ratio, y = parts(naive, batch, index, generator)
        diagonal = (joint.T @ dense.covariance(ratio) @ joint).diagonal()
        g = (of_action.T @ (ratio * y) + COEFFICIENT * of_error.sum(0)) / len(index)
        vector = nn.utils.parameters_to_vector(naive.parameters()).detach()
        nn.utils.vector_to_parameters(vector + STEP * g / (diagonal + DAMPING), naive.parameters())
    actual, expected = (nn.utils.parameters_to_vector(p.parameters()).detach() for p in (policy, naive))
    assert ((actual - expected).norm() / (expected - before).norm()).item() < 1e-7


@pytest.mark.parametrize("option", [{"kaczmarz_decay": 0.5}, {"curvature_rows": 8}, {"critic": "gauss-newton"}])
def test_what_has_no_form_for_shared_layers_is_refused(option: dict[str, Any]) -> None:
    with pytest.raises(BadConfig, match=next(iter(option))):
        RAT(make_policy(SHARED), RATConfig(**option), torch.Generator())


def test_one_pass_gives_what_both_networks_give() -> None:
    policy = make_policy(SHARED)
    observations = torch.randn(7, 5, dtype=torch.float64)
    distribution, values = policy.actor_critic(observations)
    torch.testing.assert_close(distribution.mean, policy.actor(observations).mean)
    torch.testing.assert_close(values, policy.critic(observations))
    assert policy.critic[0] is policy.actor.body
