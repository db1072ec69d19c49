"""RAT's update against a naive one: dense scores, parameter-sized vectors, textbook lines, float64."""

import io
import math

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from ratpg.algorithms import RAT, RATConfig
from ratpg.natgrad import dense
from ratpg.rl.batch import Batch
from ratpg.rl.policy import ActorCritic, PolicySpec

ROWS, D, A = 24, 5, 2
GAUSSIAN = PolicySpec((D,), (A,), 0, 0, (), (), hidden=(6,), activation="tanh")
DISCRETE = PolicySpec((D,), (), 3, 0, (), (), hidden=(6,), activation="tanh")


def make_policy(spec: PolicySpec) -> ActorCritic:
    torch.manual_seed(0)
    policy = ActorCritic(spec).double()
    for parameter in policy.actor.parameters():
        nn.init.normal_(parameter, std=0.3)
    return policy


def make_batch(policy: ActorCritic, seed: int = 1) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    observations = torch.randn(ROWS, D, generator=generator, dtype=torch.float64)
    distribution = policy.actor(observations).detach()
    actions = distribution.sample(policy.draw_noise((ROWS,), generator).double())
    advantages, values = torch.randn(2, ROWS, generator=generator, dtype=torch.float64)
    log_prob = distribution.log_prob(actions)
    return Batch(observations, actions, distribution, log_prob, 3 * advantages + 1, values + advantages)


def config(**changes: object) -> RATConfig:
    values = {"damping": 0.05, "step_size": 0.4, "epochs": 2, "minibatches": 3, "critic_epochs": 1}
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


def test_every_parameter_of_the_actor_moves_log_std_too() -> None:
    policy = make_policy(GAUSSIAN)
    before = {name: p.detach().clone() for name, p in policy.actor.named_parameters()}
    assert any("log_std" in name for name in before)
    RAT(policy, config(), torch.Generator()).update(make_batch(policy))
    for name, parameter in policy.actor.named_parameters():
        assert not torch.equal(parameter, before[name]), name


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


def test_advantages_count_up_to_a_positive_scale_and_a_shift() -> None:
    policies = [make_policy(GAUSSIAN) for _ in range(2)]
    for policy, (scale, shift) in zip(policies, [(1.0, 0.0), (100.0, -7.0)], strict=True):
        batch = make_batch(policy)
        changed = Batch(**vars(batch) | {"advantages": scale * batch.advantages + shift})
        RAT(policy, config(), torch.Generator().manual_seed(7)).update(changed)
    first, second = (nn.utils.parameters_to_vector(p.actor.parameters()) for p in policies)
    assert_close(first, second, rtol=1e-6, atol=1e-6)


def test_the_step_size_follows_the_kl_band() -> None:
    for band, factor in [((1e-9, 1e-8), 1 / 1.5), ((50.0, 60.0), 1.5), ((1e-9, 60.0), 1.0)]:
        policy = make_policy(GAUSSIAN)
        rat = RAT(policy, config(kl_band=band), torch.Generator())
        rat.update(make_batch(policy))
        assert rat.step_size.value == pytest.approx(0.4 * factor)


def test_the_critic_learns_the_returns_and_leaves_the_actor_alone() -> None:
    policy = make_policy(GAUSSIAN)
    batch = make_batch(policy)
    rat = RAT(
        policy,
        config(critic_epochs=30, critic_learning_rate=1e-2, step_size=1e-9, step_size_bounds=(1e-9, 1e-9)),
        torch.Generator(),
    )
    losses = [rat.update(batch)["value_loss"] for _ in range(10)]
    assert losses[-1] < 0.2 * losses[0]
    assert (policy.value(batch.observations) - batch.returns).square().mean() < 0.2 * batch.returns.var()


def test_a_batch_smaller_than_its_number_of_minibatches_does_no_harm() -> None:
    policy = make_policy(GAUSSIAN)
    few = make_batch(policy)[torch.arange(3)]
    RAT(policy, config(minibatches=4, critic_minibatches=8), torch.Generator()).update(few)
    assert all(parameter.isfinite().all() for parameter in policy.parameters())


def test_a_restored_rat_goes_on_to_the_bit() -> None:
    policy, generator = make_policy(GAUSSIAN), torch.Generator().manual_seed(3)
    rat = RAT(policy, config(), generator)
    rat.update(make_batch(policy, seed=1))
    copy, other_generator = make_policy(GAUSSIAN), torch.Generator()
    copy.load_state_dict(policy.state_dict())
    restored = RAT(copy, config(), other_generator)
    file = io.BytesIO()
    torch.save(rat.state_dict(), file)
    file.seek(0)
    restored.load_state_dict(torch.load(file, weights_only=True))
    other_generator.set_state(generator.get_state())
    batch = make_batch(policy, seed=2)
    assert rat.update(batch) == restored.update(batch)
    for ours, theirs in zip(policy.parameters(), copy.parameters(), strict=True):
        assert torch.equal(ours, theirs)
