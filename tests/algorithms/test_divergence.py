"""How far a policy has moved is the mean over all rows of a batch, and over some that are evenly spread for images."""

import pytest
import torch
from torch.testing import assert_close

from ratpg.algorithms import divergence
from ratpg.algorithms.divergence import kl_and_entropy
from ratpg.rl.batch import Batch
from ratpg.rl.policy import ActorCritic
from ratpg.rl.spec import PolicySpec

ROWS = 12


def problem(spec: PolicySpec, observations: torch.Tensor) -> tuple[ActorCritic, Batch]:
    """A batch, and the policy after it has moved."""
    torch.manual_seed(0)
    policy = ActorCritic(spec)
    distribution = policy.actor(observations).detach()
    zeros = torch.zeros(ROWS)
    with torch.no_grad():
        policy.actor.head.weight.add_(torch.randn_like(policy.actor.head.weight))
    return policy, Batch(observations, zeros.long(), distribution, zeros, zeros, zeros)


@pytest.mark.parametrize("limit, expected", [(4, [0, 2, 7, 10]), (5, [0, 2, 5, 7, 10]), (ROWS, list(range(ROWS)))])
def test_of_images_evenly_spread_rows_are_looked_at(
    limit: int, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(divergence, "IMAGES", limit)
    spec = PolicySpec((3, 36, 36), (), (4,), (0,), images=True, network="nature-cnn", shared=True)
    torch.manual_seed(1)
    policy, batch = problem(spec, torch.rand(ROWS, 3, 36, 36))
    now = policy.actor(batch.observations).detach()
    kl, entropy = kl_and_entropy(policy, batch)
    assert_close(kl, float(batch.distribution.kl(now)[expected].mean()))
    assert_close(entropy, float(now.entropy()[expected].mean()))


def test_of_other_observations_every_row_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(divergence, "IMAGES", 4)
    torch.manual_seed(1)
    policy, batch = problem(PolicySpec((5,), (), (4,), (0,), hidden=(8,)), torch.randn(ROWS, 5))
    now = policy.actor(batch.observations).detach()
    assert_close(kl_and_entropy(policy, batch)[0], float(batch.distribution.kl(now).mean()))


def test_the_rows_are_of_all_environments() -> None:
    """The rows of a step are its environments', without a reset that would shift them."""
    rows = divergence.spread(4096)
    for envs in (2, 16, 64):
        assert torch.bincount(rows % envs).min() > 0.5 * divergence.IMAGES / envs
