"""RAT's update against a naive one: dense scores, parameter-sized vectors, textbook lines, float64."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from ratpg.algorithms import RAT, RATConfig
from ratpg.natgrad import CaptureError, dense
from ratpg.rl.batch import Batch
from ratpg.rl.spec import PolicySpec

from .problem import DISCRETE, GAUSSIAN, ROWS, make_batch, make_policy


def config(**changes: object) -> RATConfig:
    values = {"damping": 0.05, "step_size": 0.4, "weight_decay": 0.0, "epochs": 2, "minibatches": 3, "critic_epochs": 1}
    return RATConfig(**values | {"critic_minibatches": 2} | changes)


def naive_update(actor: nn.Module, batch: Batch, config: RATConfig, generator: torch.Generator) -> list[Tensor]:
    """Moves the actor as RAT's definition says; returns the directions."""
    parameters = list(actor.parameters())
    g = torch.zeros(sum(p.numel() for p in parameters), dtype=torch.float64)
    directions = []
    for _ in range(config.epochs):
        for index in torch.randperm(ROWS, generator=generator).tensor_split(config.minibatches):
            log_prob = actor(batch.observations[index]).log_prob(batch.actions[index])
            scores = dense.score_matrix(log_prob, parameters)
            weights = (log_prob.detach() - batch.log_prob[index]).exp().clamp(*config.ratio_bounds)
            y = batch.advantages[index] - batch.advantages[index].mean()
            y = y / (y.square().mean().sqrt() + 1e-8)
            y = y - config.entropy_coefficient * (log_prob - log_prob.mean()).detach()
            g = dense.kaczmarz_step(scores, y, weights, config.damping, g, config.kaczmarz_decay)
            size = min(config.step_size, (config.max_step_norm or math.inf) / g.norm().item())
            vector = nn.utils.parameters_to_vector(parameters).detach()
            nn.utils.vector_to_parameters(vector + size * g, parameters)
            directions.append(g)
    return directions


@pytest.mark.parametrize("spec", [GAUSSIAN, DISCRETE], ids=["gaussian", "categorical"])
@pytest.mark.parametrize("decay", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("max_step_norm", [None, 0.2])
@pytest.mark.parametrize(("ratio_bounds", "entropy_coefficient"), [((0.1, 10.0), 0.3), ((0.95, 1.05), 0.0)])
def test_an_update_equals_the_naive_one(
    spec: PolicySpec,
    decay: float,
    max_step_norm: float | None,
    ratio_bounds: tuple[float, float],
    entropy_coefficient: float,
) -> None:
    settings = config(
        kaczmarz_decay=decay,
        max_step_norm=max_step_norm,
        ratio_bounds=ratio_bounds,
        entropy_coefficient=entropy_coefficient,
    )
    policy, naive = make_policy(spec), make_policy(spec)
    batch = make_batch(policy)
    before = nn.utils.parameters_to_vector(policy.actor.parameters()).detach()

    metrics = RAT(policy, settings, torch.Generator().manual_seed(7)).update(batch)
    directions = naive_update(naive.actor, batch, settings, torch.Generator().manual_seed(7))

    actual, expected = (nn.utils.parameters_to_vector(p.actor.parameters()).detach() for p in (policy, naive))
    assert (actual - before).norm() > 0.1
    assert ((actual - expected).norm() / (expected - before).norm()).item() < 1e-10
    norms = torch.stack([g.norm() for g in directions])
    assert metrics["grad_norm"] == pytest.approx(norms.mean().item(), rel=1e-6)
    kl = batch.distribution.kl(naive.actor(batch.observations).detach()).mean().item()
    assert metrics["kl"] == pytest.approx(kl, rel=1e-6)
    assert metrics["learning_rate"] == settings.step_size


def test_weight_decay_is_a_term_of_the_objective_whose_natural_gradient_is_taken() -> None:
    settings = config(weight_decay=0.2, epochs=1, minibatches=1, entropy_coefficient=0.0)
    policy = make_policy(GAUSSIAN)
    batch, parameters = make_batch(policy), list(policy.actor.parameters())
    before = nn.utils.parameters_to_vector(parameters).detach()
    scores = dense.score_matrix(policy.actor(batch.observations).log_prob(batch.actions), parameters)
    fisher = scores.T @ scores / ROWS + settings.damping * torch.eye(len(before), dtype=torch.float64)
    expected = torch.linalg.solve(fisher, scores.T @ batch.normalized_advantages / ROWS - 0.2 * before)
    RAT(policy, settings, torch.Generator()).update(batch)
    step = (nn.utils.parameters_to_vector(parameters).detach() - before) / settings.step_size
    assert (step - expected).norm() <= 1e-10 * expected.norm()


@pytest.mark.parametrize("zeta", [0.0, 0.5, 1.0])
def test_the_iterate_decays_towards_the_weight_decay(zeta: float) -> None:
    settings = config(weight_decay=0.2, kaczmarz_decay=zeta, entropy_coefficient=0.0)
    policy, naive = make_policy(GAUSSIAN), make_policy(GAUSSIAN)
    batch = make_batch(policy)
    RAT(policy, settings, torch.Generator().manual_seed(7)).update(batch)

    parameters, g = list(naive.actor.parameters()), None
    generator = torch.Generator().manual_seed(7)
    for _ in range(settings.epochs):
        for index in torch.randperm(ROWS, generator=generator).tensor_split(settings.minibatches):
            log_prob = naive.actor(batch.observations[index]).log_prob(batch.actions[index])
            scores = dense.score_matrix(log_prob, parameters)
            weights = (log_prob.detach() - batch.log_prob[index]).exp().clamp(*settings.ratio_bounds)
            theta = nn.utils.parameters_to_vector(parameters).detach()
            w = -0.2 * theta / settings.damping
            start = w if g is None else zeta * g + (1 - zeta) * w
            y = batch[index].normalized_advantages
            g = dense.kaczmarz_step(scores, y, weights, settings.damping, start, 1.0)
            nn.utils.vector_to_parameters(theta + settings.step_size * g, parameters)
    actual, expected = (nn.utils.parameters_to_vector(p.actor.parameters()).detach() for p in (policy, naive))
    assert_close(actual, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("spec", [GAUSSIAN, DISCRETE], ids=["gaussian", "categorical"])
def test_with_curvature_of_some_rows_the_whole_gradient_meets_their_matrix(spec: PolicySpec) -> None:
    rows, damping = 3, 0.05
    # The weight decay is left out, since it would grow along what only the other rows know of.
    settings = config(damping=damping, curvature_rows=rows, weight_decay=0.2, step_size=0.05, entropy_coefficient=0.0)
    policy, naive = make_policy(spec), make_policy(spec)
    batch = make_batch(policy)
    RAT(policy, settings, torch.Generator().manual_seed(7)).update(batch)

    parameters, generator = list(naive.actor.parameters()), torch.Generator().manual_seed(7)
    before = nn.utils.parameters_to_vector(parameters).detach()
    for _ in range(settings.epochs):
        for index in torch.randperm(ROWS, generator=generator).tensor_split(settings.minibatches):
            log_prob = naive.actor(batch.observations[index]).log_prob(batch.actions[index])
            scores = dense.score_matrix(log_prob, parameters)
            weights = (log_prob.detach() - batch.log_prob[index]).exp().clamp(*settings.ratio_bounds)
            gradient = scores.T @ (weights * batch[index].normalized_advantages) / len(index)
            fisher = scores[:rows].T @ torch.diag(weights[:rows]) @ scores[:rows] / rows
            g = torch.linalg.solve(fisher + damping * torch.eye(len(before), dtype=torch.float64), gradient)
            vector = nn.utils.parameters_to_vector(parameters).detach()
            nn.utils.vector_to_parameters(vector + settings.step_size * g, parameters)
    actual, expected = (nn.utils.parameters_to_vector(p.actor.parameters()).detach() for p in (policy, naive))
    assert ((actual - expected).norm() / (expected - before).norm()).item() < 1e-10


def test_curvature_of_as_many_rows_as_there_are_is_that_of_all() -> None:
    policies = make_policy(GAUSSIAN), make_policy(GAUSSIAN)
    for policy, rows in zip(policies, (None, ROWS), strict=True):
        settings = config(curvature_rows=rows, weight_decay=0.2)
        RAT(policy, settings, torch.Generator().manual_seed(7)).update(make_batch(policy))
    actual, expected = (nn.utils.parameters_to_vector(p.actor.parameters()).detach() for p in policies)
    assert_close(actual, expected, rtol=1e-10, atol=1e-10)


def test_with_no_advantages_the_entropy_alone_is_raised() -> None:
    policy = make_policy(GAUSSIAN)
    batch = make_batch(policy)
    flat = Batch(**vars(batch) | {"advantages": torch.zeros_like(batch.advantages)})
    before = batch.distribution.entropy().mean()
    metrics = RAT(policy, config(entropy_coefficient=0.5), torch.Generator().manual_seed(7)).update(flat)
    assert metrics["entropy"] > before + 0.05


def test_the_cases_above_reach_every_clamp() -> None:
    """A comparison in which no ratio is clamped and no step shortened would prove nothing of clamps."""
    policy = make_policy(GAUSSIAN)
    batch = make_batch(policy)
    directions = naive_update(policy.actor, batch, config(), torch.Generator().manual_seed(7))
    ratios = (policy.actor(batch.observations).log_prob(batch.actions) - batch.log_prob).exp()
    assert ratios.min() < 0.9
    assert ratios.max() > 1.1
    assert 0.4 * directions[0].norm() > 0.2


def test_the_iterate_starts_anew_with_each_rollout() -> None:
    """With ζ = 1, two updates of one RAT are the updates of two, each from where the other left the policy."""
    one, two = make_policy(GAUSSIAN), make_policy(GAUSSIAN)
    settings, generators = config(kaczmarz_decay=1.0), [torch.Generator().manual_seed(7) for _ in range(2)]
    rat = RAT(one, settings, generators[0])
    for seed in (1, 2):
        batch, step_size = make_batch(one, seed), rat.step_size.value
        fresh = RAT(two, settings, generators[1])
        fresh.step_size.value = step_size
        rat.update(batch)
        fresh.update(batch)
    first, second = (nn.utils.parameters_to_vector(p.actor.parameters()) for p in (one, two))
    assert_close(first, second, rtol=0, atol=0)


def test_an_update_raises_the_surrogate() -> None:
    policy = make_policy(GAUSSIAN)
    batch = make_batch(policy)
    RAT(policy, config(step_size=0.01), torch.Generator()).update(batch)
    ratio = (policy.actor(batch.observations).log_prob(batch.actions) - batch.log_prob).exp()
    assert ((ratio - 1) * (batch.advantages - batch.advantages.mean())).mean() > 0


def test_the_step_size_follows_the_kl_band() -> None:
    for band, factor in [((1e-9, 1e-8), 1 / 1.5), ((50.0, 60.0), 1.5), ((1e-9, 60.0), 1.0)]:
        policy = make_policy(GAUSSIAN)
        rat = RAT(policy, config(kl_band=band), torch.Generator())
        rat.update(make_batch(policy))
        assert rat.step_size.value == pytest.approx(0.4 * factor)


@pytest.mark.parametrize(("anneal", "factors"), [(True, (1.0, 1.0, 1 / 1.5, 1 / 1.5)), (False, (1.0, 1.0, 1.0, 1.0))])
def test_the_kl_band_falls_over_the_second_half_of_the_run(anneal: bool, factors: tuple[float, ...]) -> None:
    def size_after(remaining: float, band: tuple[float, float]) -> tuple[float, float]:
        policy = make_policy(GAUSSIAN)
        rat = RAT(policy, config(kl_band=band, anneal_kl_band=anneal), torch.Generator().manual_seed(0))
        kl = rat.update(make_batch(policy), remaining)["kl"]
        return rat.step_size.value, kl

    for remaining, factor in zip((1.0, 0.5, 0.4, 0.0), factors, strict=True):
        _, kl = size_after(remaining, (1e-9, 1e9))
        size, _ = size_after(remaining, (0.9 * kl, 1.1 * kl))
        assert size == pytest.approx(0.4 * factor)


@pytest.mark.parametrize("critic", ["adam", "gauss-newton"])
def test_an_update_lets_go_of_the_graphs_it_recorded(critic: str) -> None:
    policy = make_policy(GAUSSIAN)
    rat = RAT(policy, config(critic=critic), torch.Generator().manual_seed(3))
    rat.update(make_batch(policy))
    assert rat.critic is not None
    for transform in (rat.transform, getattr(rat.critic, "transform", rat.transform)):
        with pytest.raises(CaptureError, match="nothing recorded"):
            transform.gram()
