"""TRPO's update against a naive one: dense Fisher matrix, LU, in float64."""

import pytest
import torch
from torch import nn

from ratpg.algorithms import TRPO, TRPOConfig
from ratpg.algorithms.checks import BadConfig
from ratpg.natgrad import Recorder
from ratpg.natgrad.fisher import kl_fisher, score_fisher
from ratpg.rl.batch import Batch
from ratpg.rl.policy import ActorCritic
from ratpg.rl.spec import PolicySpec

from .problem import CENSORED, DISCRETE, GAUSSIAN, make_batch, make_policy

specs = pytest.mark.parametrize("spec", [GAUSSIAN, CENSORED, DISCRETE], ids=["gaussian", "censored", "categorical"])


def exact_direction(policy: ActorCritic, batch: Batch, damping: float) -> tuple[torch.Tensor, torch.Tensor]:
    """``x = (F + λI)⁻¹ ∇ mean(r y)`` and ``F + λI``, with ``F`` row by row from two derivatives of the KL."""
    parameters = list(policy.actor.parameters())
    distribution = policy.actor(batch.observations)
    y = (batch.advantages - batch.advantages.mean()) / batch.advantages.std(correction=0)
    surrogate = ((distribution.log_prob(batch.actions) - batch.log_prob).exp() * y).mean()
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(surrogate, parameters, retain_graph=True)])
    kl = distribution.detach().kl(distribution).mean()
    first = torch.cat([g.flatten() for g in torch.autograd.grad(kl, parameters, create_graph=True)])
    rows = [torch.cat([g.flatten() for g in torch.autograd.grad(v, parameters, retain_graph=True)]) for v in first]
    fisher = torch.stack(rows) + damping * torch.eye(len(first), dtype=torch.float64)
    return torch.linalg.solve(fisher, gradient), fisher


def moved_by(policy: ActorCritic, batch: Batch, config: TRPOConfig) -> tuple[torch.Tensor, dict[str, float]]:
    before = nn.utils.parameters_to_vector(policy.actor.parameters()).detach().clone()
    metrics = TRPO(policy, config, torch.Generator().manual_seed(7)).update(batch)
    return nn.utils.parameters_to_vector(policy.actor.parameters()).detach() - before, metrics


@specs
def test_the_step_is_the_exact_natural_gradient_scaled_to_the_target_kl(spec: PolicySpec) -> None:
    policy, reference = make_policy(spec), make_policy(spec)
    batch = make_batch(policy)
    moved, metrics = moved_by(policy, batch, TRPOConfig(target_kl=1e-4, cg_iterations=200))
    x, fisher = exact_direction(reference, batch, 0.1)
    whole = (2e-4 / (x @ fisher @ x)) ** 0.5 * x
    share = float(moved @ whole / (whole @ whole))
    assert min(abs(share - 0.8**k) for k in range(10)) < 1e-5
    assert float((moved - share * whole).norm() / moved.norm()) < 1e-6
    assert metrics["kl"] <= 1e-4
    assert metrics["failed_line_searches"] == 0


@specs
def test_without_a_target_the_step_is_bounded_by_its_norm(spec: PolicySpec) -> None:
    for bound in (None, 1e-3):
        policy, reference = make_policy(spec), make_policy(spec)
        batch = make_batch(policy)
        config = TRPOConfig(target_kl=None, cg_iterations=200, step_size=0.05, max_step_norm=bound)
        moved, _ = moved_by(policy, batch, config)
        x, _ = exact_direction(reference, batch, 0.1)
        expected = min(0.05, (bound or torch.inf) / float(x.norm())) * x
        assert float((moved - expected).norm() / expected.norm()) < 1e-6


def test_a_failed_line_search_leaves_the_actor_bit_for_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = make_policy(GAUSSIAN)
    batch = make_batch(policy)
    # A batch whose behaviour policy is far away: no step along x can be within the target.
    far = Batch(
        **vars(batch)
        | {"distribution": type(batch.distribution)(batch.distribution.mean + 9, batch.distribution.log_std)}
    )
    moved, metrics = moved_by(policy, far, TRPOConfig())
    assert not moved.any()
    assert metrics["failed_line_searches"] == 1
    assert metrics["learning_rate"] == 0.0


@specs
def test_its_fisher_matrix_is_that_of_the_scores_in_expectation_over_actions_only(spec: PolicySpec) -> None:
    policy, draws = make_policy(spec), 400
    batch = make_batch(policy)
    recorder = Recorder.over(policy.actor)
    v = torch.randn(sum(p.numel() for p in policy.actor.parameters()), dtype=torch.float64)
    distribution = policy.actor(batch.observations)
    kl = distribution.detach().kl(distribution).mean()
    expected = kl_fisher(kl, list(recorder.parameters.values()), 0.0)(v)
    generator = torch.Generator().manual_seed(0)
    products = []
    for _ in range(draws):
        actions = batch.distribution.sample(policy.draw_noise((len(batch),), generator).double())
        with recorder.record():
            log_prob = policy.actor(batch.observations).log_prob(actions)
        weights = torch.ones(len(batch), dtype=torch.float64)
        products.append(score_fisher(recorder.factors(log_prob), recorder.parameters, weights, 0.0)(v))
    sampled = torch.stack(products)
    errors = sampled.mean(0) - expected
    assert (sampled - expected).norm(dim=1).min() > 0.1 * expected.norm()  # no draw is it
    # The mean is, within its standard error: squared errors in these units average to one.
    assert 0.3 < float(errors.square().sum() / (sampled.var(0) / draws).sum()) < 3.0


def test_a_first_step_above_its_bounds_is_refused() -> None:
    with pytest.raises(BadConfig, match=r"^step_size must be at most 0\.05"):
        TRPOConfig(target_kl=None, step_size=5.0)
