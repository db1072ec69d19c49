"""Updates of shared layers against naive ones with the dense joint scores, in float64."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from ratpg.algorithms import RAT, Diag, DiagConfig, RATConfig
from ratpg.algorithms.checks import BadConfig
from ratpg.algorithms.joint import value_noise
from ratpg.natgrad import dense
from ratpg.rl.batch import Batch
from ratpg.rl.policy import ActorCritic
from ratpg.rl.spec import PolicySpec

from .problem import ENVS, ROWS, SHARED, SHARED_RECURRENT, make_batch, make_policy

DAMPING, COEFFICIENT, STEP, ENTROPY = 0.05, 0.7, 0.2, 0.1


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
    log_prob: Tensor

    @property
    def joint(self) -> Tensor:
        return self.of_action + self.noise[:, None] * self.of_value


def parts(policy: ActorCritic, batch: Batch, noise: Tensor) -> Parts:
    parameters = list(policy.parameters())
    log_prob = policy.actor(batch.observations).log_prob(batch.actions)
    values = policy.critic(batch.observations)
    residuals = (policy.value_head.normalize(batch.returns) - values).detach()
    of_action, of_value = torch.zeros(2, len(batch), sum(p.numel() for p in parameters), dtype=torch.float64)
    for i in range(len(batch)):
        for rows, scalar in ((of_action, log_prob[i]), (of_value, values[i])):
            found = torch.autograd.grad(scalar, parameters, retain_graph=True, allow_unused=True)
            rows[i] = torch.cat(
                [(torch.zeros_like(p) if g is None else g).flatten() for g, p in zip(found, parameters, strict=True)]
            )
    ratio = (log_prob.detach() - batch.log_prob).exp()
    y = (batch.advantages - batch.advantages.mean()) / batch.advantages.std(correction=0)
    return Parts(of_action, of_value, noise, residuals, ratio, y, log_prob.detach())


def pseudo(m: Parts) -> Tensor:
    """The paper's update: one system for advantages and ones, each with the gradient of its own loss."""
    for_policy = dense.transformed_advantage(m.joint, m.y, m.ratio, DAMPING)
    for_critic = dense.transformed_advantage(m.joint, torch.ones_like(m.y), m.ratio, DAMPING)
    return (m.of_action.T @ (m.ratio * for_policy) + COEFFICIENT * m.of_value.T @ (m.residuals * for_critic)) / len(m.y)


def residual(m: Parts) -> Tensor:
    """The natural gradient of both losses, with the Fisher matrix of both as a parameter-sized matrix."""
    weights = (m.ratio / len(m.ratio))[:, None]
    fisher = m.of_action.T @ (weights * m.of_action) + m.of_value.T @ (weights * m.of_value)
    gradient = m.of_action.T @ (weights[:, 0] * m.y) + COEFFICIENT * m.of_value.T @ (weights[:, 0] * m.residuals)
    return torch.linalg.solve(fisher + DAMPING * torch.eye(len(fisher), dtype=torch.float64), gradient)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [(SHARED, pseudo), (SHARED, residual), (SHARED_RECURRENT, residual)],
    ids=["pseudo", "residual", "residual and recurrent"],
)
def test_rat_moves_both_networks_at_once(spec: PolicySpec, expected: Callable[[Parts], Tensor]) -> None:
    policy, naive = make_policy(spec), make_policy(spec)
    batch = make_batch(policy)
    options: dict[str, Any] = {"damping": DAMPING, "step_size": 2 * STEP, "epochs": 2, "minibatches": 3}
    options |= {"value_coefficient": COEFFICIENT, "critic_step_size": COEFFICIENT * STEP}
    options |= {"entropy_coefficient": ENTROPY, "value_advantage": expected.__name__}
    before = nn.utils.parameters_to_vector(policy.parameters()).detach()
    rat = RAT(policy, RATConfig(**options), torch.Generator().manual_seed(7))
    rat.step_size.value = STEP
    rat.update(batch)

    naive.value_head.update(batch.returns)
    generator = torch.Generator().manual_seed(7)
    for _ in range(2):
        for index in torch.randperm(ENVS if spec.lstm else ROWS, generator=generator).tensor_split(3):
            part = batch[index]
            noise = value_noise(part, generator) if expected is pseudo else torch.zeros(len(part))
            m = parts(naive, part, noise.double())
            g = expected(m._replace(y=m.y + ENTROPY * (m.log_prob.mean() - m.log_prob)))
            vector = nn.utils.parameters_to_vector(naive.parameters()).detach()
            nn.utils.vector_to_parameters(vector + STEP * g, naive.parameters())
    after, wanted = (nn.utils.parameters_to_vector(p.parameters()).detach() for p in (policy, naive))
    assert ((after - wanted).norm() / (wanted - before).norm()).item() < 1e-7


@pytest.mark.parametrize("value_advantage", ["pseudo", "residual"])
def test_a_system_that_needs_more_than_cholesky_is_counted(value_advantage: Any) -> None:
    policy = make_policy(SHARED)
    same = make_batch(policy)[torch.zeros(ROWS, dtype=torch.int64)]  # joint scores of rank two, and no damping
    config = RATConfig(damping=0.0, weight_decay=0.0, epochs=2, minibatches=3, value_advantage=value_advantage)
    rat = RAT(policy, config, torch.Generator())
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
        m = parts(naive, batch[index], value_noise(batch[index], generator))
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
