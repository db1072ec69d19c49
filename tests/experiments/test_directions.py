"""The ways to the natural gradient that are compared agree where they have to."""

import pytest
import torch

from directions import Ways, error_bound, materialised_scores, reference
from ratpg.natgrad.dense import natural_gradient, score_matrix
from ratpg.rl.policy import ActorCritic
from ratpg.rl.spec import PolicySpec
from snapshots import Snapshot

DAMPING, N = 0.1, 64


@pytest.fixture
def batch() -> Snapshot:
    torch.manual_seed(0)
    spec = PolicySpec((3,), (2,), action_low=(-1.0, -1.0), action_high=(1.0, 1.0), hidden=(8,), activation="tanh")
    policy = ActorCritic(spec).double()
    torch.nn.init.normal_(policy.actor.head.weight)
    tensors = torch.randn(N, 3), torch.randn(N, 2), torch.randn(N)
    return Snapshot(0, policy, *(tensor.double() for tensor in tensors))


def test_the_reference_is_the_parameter_sized_solve(batch: Snapshot) -> None:
    actor = batch.policy.actor
    scores = score_matrix(actor(batch.observations).log_prob(batch.actions), [*actor.parameters()])
    torch.testing.assert_close(materialised_scores(actor, batch.observations, batch.actions, chunk=10), scores)
    exact = natural_gradient(scores, batch.advantages, torch.ones(N).double(), DAMPING)
    found = reference(actor, batch, DAMPING)
    torch.testing.assert_close(found.direction, exact)
    assert found.error_bound < 1e-10


def test_its_certificate_notices_another_step(batch: Snapshot) -> None:
    other = reference(batch.policy.actor, batch, 2 * DAMPING).direction
    exact = reference(batch.policy.actor, batch, DAMPING).direction
    scores = materialised_scores(batch.policy.actor, batch.observations, batch.actions)
    error = float((other - exact).norm() / other.norm())
    assert error > 0.05
    assert error_bound(other, scores, batch.advantages, DAMPING) >= error


def test_exact_ways_reach_it_and_the_others_do_not(batch: Snapshot) -> None:
    exact = reference(batch.policy.actor, batch, DAMPING).direction
    ways = Ways(batch, DAMPING)
    torch.testing.assert_close(ways.rat(), exact)
    torch.testing.assert_close(ways.cg_scores(len(exact)), exact)
    (whole,) = ways.kaczmarz(N, 1.0, 1)
    torch.testing.assert_close(whole, exact)
    for other in (ways.vanilla(), ways.diagonal(), ways.kfac(), ways.ekfac(), ways.cg_kl(len(exact))):
        assert other.shape == exact.shape and other @ exact > 0
        assert (other - exact).norm() > 1e-3 * exact.norm()


def test_only_the_dual_iteration_settles_at_the_damped_step(batch: Snapshot) -> None:
    exact = reference(batch.policy.actor, batch, DAMPING).direction
    ways = Ways(batch, DAMPING)
    *_, dual = ways.dual_kaczmarz(16, 400)
    *_, plain = ways.kaczmarz(16, 1.0, 400)
    torch.testing.assert_close(dual, exact, rtol=1e-4, atol=1e-6)
    assert (plain - exact).norm() > 0.1 * exact.norm()
