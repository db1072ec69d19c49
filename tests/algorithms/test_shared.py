"""Updates of shared layers against naive ones with the dense joint scores, in float64."""

from collections.abc import Callable
from typing import Any, NamedTuple

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


class Parts(NamedTuple):
    """What the update of a mini-batch is made of: ``n`` rows, ``p`` parameters."""

    of_action: Tensor
    """Scores of the action, ``[n, p]``."""
    of_value: Tensor
    """Gradients of the value, ``[n, p]``."""
    noise: Tensor
    residuals: Tensor
    ratio: Tensor
    y: Tensor

    @property
    def joint(self) -> Tensor:
        return self.of_action + self.noise[:, None] * self.of_value


def parts(policy: ActorCritic, batch: Batch, index: Tensor, generator: torch.Generator) -> Parts:
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
    return Parts(of_action, of_value, noise, residuals, ratio, (y - y.mean()) / y.std(correction=0))


def pseudo(m: Parts) -> Tensor:
    """The paper's update: one system for advantages and ones, each with the gradient of its own loss."""
    for_policy = dense.transformed_advantage(m.joint, m.y, m.ratio, DAMPING)
    for_critic = dense.transformed_advantage(m.joint, torch.ones_like(m.y), m.ratio, DAMPING)
    return (m.of_action.T @ (m.ratio * for_policy) + COEFFICIENT * m.of_value.T @ (m.residuals * for_critic)) / len(m.y)


def sampled(m: Parts) -> Tensor:
    """The natural gradient with the value drawn as one more action."""
    return dense.natural_gradient(m.joint, m.y + COEFFICIENT * m.noise * m.residuals, m.ratio, DAMPING)


@pytest.mark.parametrize("expected", [pseudo, sampled])
def test_rat_moves_both_networks_at_once(expected: Callable[[Parts], Tensor]) -> None:
    policy, naive = make_policy(SHARED), make_policy(SHARED)
    batch = make_batch(policy)
    options: dict[str, Any] = {"damping": DAMPING, "step_size": STEP, "epochs": 2, "minibatches": 3}
    options |= {"value_coefficient": COEFFICIENT, "critic_step_size": COEFFICIENT * STEP, "entropy_coefficient": 0.0}
    options |= {"value_advantage": expected.__name__}
    before = nn.utils.parameters_to_vector(policy.parameters()).detach()
    RAT(policy, RATConfig(**options), torch.Generator().manual_seed(7)).update(batch)

    naive.value_head.update(batch.returns)
    generator = torch.Generator().manual_seed(7)
    for _ in range(2):
        for index in torch.randperm(ROWS, generator=generator).tensor_split(3):
            g = expected(parts(naive, batch, index, generator))
            vector = nn.utils.parameters_to_vector(naive.parameters()).detach()
            nn.utils.vector_to_parameters(vector + STEP * g, naive.parameters())
    after, wanted = (nn.utils.parameters_to_vector(p.parameters()).detach() for p in (policy, naive))
    assert ((after - wanted).norm() / (wanted - before).norm()).item() < 1e-7


def test_a_value_drawn_as_an_action_gives_the_gradient_of_both_losses_in_the_mean() -> None:
    policy = make_policy(SHARED)
    m = parts(policy, make_batch(policy), torch.arange(ROWS), torch.Generator().manual_seed(7))
    weights = m.ratio / ROWS
    gradient = m.of_action.T @ (weights * m.y) + m.of_value.T @ (weights * m.residuals)
    mean = torch.zeros_like(gradient)
    for noise in torch.randn(20_000, ROWS, generator=torch.Generator().manual_seed(8)).double().split(1000):
        for_rows = weights * (m.y + noise * m.residuals)
        mean += (for_rows @ m.of_action + (noise * for_rows) @ m.of_value).sum(0) / 20_000
    assert ((mean - gradient).norm() / gradient.norm()).item() < 0.02


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
        m = parts(naive, batch, index, generator)
        diagonal = (m.joint.T @ dense.covariance(m.ratio) @ m.joint).diagonal()
        g = (m.of_action.T @ (m.ratio * m.y) + COEFFICIENT * m.of_value.T @ m.residuals) / len(index)
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
