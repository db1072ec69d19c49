"""The critics: Adam's regression, and Gauss-Newton steps against dense ones in float64."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from ratpg.algorithms.critic import AdamCritic, Critic, GaussNewtonCritic
from ratpg.natgrad import dense
from ratpg.optim.kl_band import KLBand
from ratpg.rl.policy import ActorCritic

from .problem import GAUSSIAN, ROWS, make_batch, make_policy

WIDE = (1e-12, 1e12)


def gauss_newton(policy: ActorCritic, band: tuple[float, float] = WIDE, **changes: object) -> GaussNewtonCritic:
    values = {"damping": 0.05, "epochs": 2, "minibatches": 3, "generator": torch.Generator().manual_seed(7)}
    return GaussNewtonCritic(policy, step_size=KLBand(0.3, band, (1e-4, 1.0)), **values | changes)


def test_a_gauss_newton_fit_equals_the_dense_one() -> None:
    policy, naive = make_policy(GAUSSIAN), make_policy(GAUSSIAN)
    batch = make_batch(policy)
    loss = gauss_newton(policy).fit(batch)

    naive.value_head.update(batch.returns)
    targets = naive.value_head.normalize(batch.returns)
    parameters, generator, losses = list(naive.critic.parameters()), torch.Generator().manual_seed(7), []
    for _ in range(2):
        for index in torch.randperm(ROWS, generator=generator).tensor_split(3):
            values = naive.critic(batch.observations[index])
            jacobian, residuals = dense.score_matrix(values, parameters), targets[index] - values.detach()
            g = dense.natural_gradient(jacobian, residuals, torch.ones_like(residuals), 0.05)
            vector = nn.utils.parameters_to_vector(parameters).detach()
            nn.utils.vector_to_parameters(vector + 0.3 * g, parameters)
            losses.append(residuals.square().mean())

    actual, expected = (nn.utils.parameters_to_vector(p.critic.parameters()).detach() for p in (policy, naive))
    assert ((actual - expected).norm() / expected.norm()).item() < 1e-10
    assert loss == pytest.approx(torch.stack(losses).mean().item())


@pytest.mark.parametrize(("band", "factor"), [((1e-9, 1e-8), 1 / 1.5), ((50.0, 60.0), 1.5), ((1e-9, 60.0), 1.0)])
def test_the_gauss_newton_step_follows_its_band(band: tuple[float, float], factor: float) -> None:
    policy = make_policy(GAUSSIAN)
    critic = gauss_newton(policy, band)
    critic.fit(make_batch(policy))
    assert critic.step_size.value == pytest.approx(0.3 * factor)


def adam(policy: ActorCritic, **changes: object) -> AdamCritic:
    values = {"learning_rate": 1e-2, "epochs": 3, "minibatches": 2, "max_grad_norm": 0.3}
    return AdamCritic(policy, generator=torch.Generator().manual_seed(7), **values | changes)


@pytest.mark.parametrize("max_grad_norm", [0.3, 1e3])
@pytest.mark.parametrize("written_out", [True, False])
def test_a_fit_by_adam_equals_the_naive_one(
    max_grad_norm: float, written_out: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, naive = make_policy(GAUSSIAN), make_policy(GAUSSIAN)
    batch, other = make_batch(policy), make_batch(policy, seed=2)
    if not written_out:
        monkeypatch.setattr(policy, "critic_layers", lambda: None)
    critic = adam(policy, max_grad_norm=max_grad_norm)
    losses = [critic.fit(batch), critic.fit(other)]

    parameters, generator = list(naive.critic.parameters()), torch.Generator().manual_seed(7)
    m, v, count = torch.zeros_like(nn.utils.parameters_to_vector(parameters)), 0.0, 0
    clipped = []
    for given, loss in zip((batch, other), losses, strict=True):
        naive.value_head.update(given.returns)
        targets, seen = (given.returns - naive.value_head.mean) / naive.value_head.std, []
        for _ in range(3):
            for index in torch.randperm(ROWS, generator=generator).tensor_split(2):
                error = (naive.critic(given.observations[index]) - targets[index]).square().mean()
                g = torch.cat([g.flatten() for g in torch.autograd.grad(error, parameters)])
                clipped.append(float(g.norm()) > max_grad_norm)
                g = g * min(1.0, max_grad_norm / (float(g.norm()) + 1e-6))
                count, m, v = count + 1, 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g.square()
                step = 1e-2 * m / (1 - 0.9**count) / ((v / (1 - 0.999**count)).sqrt() + 1e-8)
                theta = nn.utils.parameters_to_vector(parameters).detach()
                nn.utils.vector_to_parameters(theta - step.detach(), parameters)
                seen.append(float(error.detach()))
        assert loss == pytest.approx(sum(seen) / len(seen))
    assert any(clipped) == (max_grad_norm < 1)
    actual, expected = (nn.utils.parameters_to_vector(p.critic.parameters()).detach() for p in (policy, naive))
    # Adam's counter, and so its correction of the averages, is float32.
    assert ((actual - expected).norm() / expected.norm()).item() < 1e-8


def test_whether_adam_can_be_captured_is_its_devices_and_not_its_states() -> None:
    saved = adam(make_policy(GAUSSIAN)).state_dict()
    for group in saved["optimizer"]["param_groups"]:
        group["capturable"] = True  # saved on a GPU
    critic = adam(make_policy(GAUSSIAN))
    critic.load_state_dict(saved)
    assert not any(group["capturable"] for group in critic.optimizer.param_groups)


def test_without_a_graph_adam_fits_as_with_one(monkeypatch: pytest.MonkeyPatch) -> None:
    policies = [make_policy(GAUSSIAN) for _ in range(2)]
    critics = [adam(policy) for policy in policies]
    monkeypatch.setattr(policies[0], "critic_layers", lambda: None)
    for _ in range(3):
        losses = [critic.fit(make_batch(policy)) for critic, policy in zip(critics, policies, strict=True)]
        assert losses[0] == pytest.approx(losses[1])
    assert policies[1].critic_layers() is not None
    torch.testing.assert_close(policies[0].critic.state_dict(), policies[1].critic.state_dict())


@pytest.mark.parametrize("make", [adam, gauss_newton])
def test_a_fit_that_goes_on_beside_the_caller_is_the_same(make: Callable[[ActorCritic], Critic]) -> None:
    policies = [make_policy(GAUSSIAN) for _ in range(2)]
    critics = [make(policy) for policy in policies]
    critics[1].overlap = True
    for critic, policy in zip(critics, policies, strict=True):
        for _ in range(3):
            critic.begin(make_batch(policy))
        critic.finish()
    assert critics[0].loss == pytest.approx(critics[1].loss)
    torch.testing.assert_close(policies[0].critic.state_dict(), policies[1].critic.state_dict())


def test_what_a_fit_raises_is_raised_where_it_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = make_policy(GAUSSIAN)
    critic = adam(policy)
    critic.overlap = True
    monkeypatch.setattr(critic, "_fit", lambda *args: 1 / 0)
    critic.begin(make_batch(policy))
    with pytest.raises(ZeroDivisionError):
        critic.finish()
    critic.finish()  # once


@pytest.mark.parametrize("kind", ["adam", "gauss-newton"])
def test_the_critic_learns_the_returns_and_leaves_the_actor_alone(kind: str) -> None:
    policy = make_policy(GAUSSIAN)
    before = nn.utils.parameters_to_vector(policy.actor.parameters()).detach().clone()
    batch = make_batch(policy)
    critic = adam(policy, epochs=30, max_grad_norm=5.0) if kind == "adam" else gauss_newton(policy, damping=1e-3)
    losses = [critic.fit(batch) for _ in range(10)]
    assert losses[-1] < 0.2 * losses[0]
    assert (policy.value(batch.observations) - batch.returns).square().mean() < 0.2 * batch.returns.var()
    assert torch.equal(nn.utils.parameters_to_vector(policy.actor.parameters()), before)
