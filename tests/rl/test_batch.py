"""A rollout made into a batch: what is in it, in which units, and how it is cut into mini-batches."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from ratpg.rl.advantage import gae
from ratpg.rl.batch import GRAIN, Batch, make_batch, shuffled_parts
from ratpg.rl.policy import ActorCritic
from ratpg.rl.rollout import Rollout
from ratpg.rl.spec import PolicySpec

T, N, D, A = 9, 4, 3, 2


def make_policy(shared: bool = False) -> ActorCritic:
    torch.manual_seed(0)
    policy = ActorCritic(PolicySpec((D,), (A,), hidden=(8,), shared=shared))
    policy.normalizer.update(2 * torch.randn(50, D) + 1)
    policy.value_head.update(5 * torch.randn(50) + 3)
    return policy


def make_rollout() -> Rollout:
    generator = torch.Generator().manual_seed(1)
    terminated = torch.zeros(T, N, dtype=torch.bool)
    truncated, valid = terminated.clone(), ~terminated
    terminated[2, 0], truncated[4, 1] = True, True
    valid[3, 0], valid[5, 1], valid[0, 2] = False, False, False
    return Rollout(
        observations=torch.randn(T + 1, N, D, generator=generator),
        actions=torch.randn(T, N, A, generator=generator),
        rewards=torch.randn(T, N, generator=generator),
        terminated=terminated,
        truncated=truncated,
        valid=valid,
        cut=torch.zeros_like(valid),
    )


def test_steps_that_only_reset_are_left_out_of_the_batch() -> None:
    rollout = make_rollout()
    batch = make_batch(make_policy(), rollout, rollout.rewards, 0.9, 0.8)
    assert len(batch) == T * N - 3
    assert_close(batch.actions, rollout.actions[rollout.valid])


@pytest.mark.parametrize("shared", [False, True])
def test_observations_are_normalized_and_the_policy_is_evaluated_on_them(shared: bool) -> None:
    policy, rollout = make_policy(shared), make_rollout()
    batch = make_batch(policy, rollout, rollout.rewards, 0.9, 0.8)
    assert_close(batch.observations, policy.normalize(rollout.observations[:-1][rollout.valid]))
    expected = policy.actor(batch.observations).log_prob(batch.actions)
    assert_close(batch.log_prob, expected.detach())


@pytest.mark.parametrize("shared", [False, True])
def test_advantages_are_of_the_rewards_given_and_the_true_values(shared: bool) -> None:
    policy, rollout = make_policy(shared), make_rollout()
    scaled = 0.1 * rollout.rewards
    batch = make_batch(policy, rollout, scaled, 0.9, 0.8)
    values = policy.value(policy.normalize(rollout.observations).flatten(0, 1)).view(T + 1, N).detach()
    expected = gae(scaled, values, rollout.terminated, rollout.truncated, rollout.valid, 0.9, 0.8)
    assert_close(batch.advantages, expected[rollout.valid])
    assert_close(batch.returns, (expected + values[:-1])[rollout.valid])


@pytest.mark.parametrize("shared", [False, True])
def test_nothing_in_a_batch_has_a_graph(shared: bool) -> None:
    rollout = make_rollout()
    batch = make_batch(make_policy(shared), rollout, rollout.rewards, 0.9, 0.8)
    tensors = [value for value in vars(batch).values() if isinstance(value, Tensor)]
    assert len(tensors) == 5
    assert not any(t.requires_grad for t in [*tensors, batch.distribution.entropy()])


def numbered(count: int) -> Batch:
    """A batch in which every field of row i is i."""
    rows = torch.arange(float(count))
    policy = make_policy()
    distribution = policy.actor(torch.zeros(count, D)).detach()
    return Batch(rows[:, None], rows[:, None], distribution, rows, rows, rows)


@pytest.mark.parametrize("rows, count", [(32, 4), (33, 4), (31, 4), (7, 1)])
def test_minibatches_are_a_permutation_in_parts_of_equal_size(rows: int, count: int) -> None:
    parts = list(numbered(rows).minibatches(count, torch.Generator().manual_seed(0)))
    sizes = [len(part) for part in parts]
    assert len(parts) == count
    assert max(sizes) - min(sizes) <= 1
    together = torch.cat([part.returns for part in parts])
    assert together.sort().values.tolist() == list(range(rows))
    assert together.tolist() != list(range(rows))


def test_a_minibatch_keeps_its_rows_together() -> None:
    for part in numbered(32).minibatches(4, torch.Generator().manual_seed(0)):
        assert_close(part.observations[:, 0], part.returns)
        assert_close(part.advantages, part.returns)


def test_every_pass_is_shuffled_anew() -> None:
    batch, generator = numbered(32), torch.Generator().manual_seed(0)
    first, second = (torch.cat([p.returns for p in batch.minibatches(2, generator)]) for _ in range(2))
    assert not torch.equal(first, second)


def test_minibatches_of_a_batch_smaller_than_their_number_are_never_empty() -> None:
    """Where episodes are short, reset-only steps can leave fewer transitions than mini-batches: no NaN then."""
    parts = list(numbered(3).minibatches(4, torch.Generator().manual_seed(0)))
    assert all(len(part) for part in parts)


@pytest.mark.parametrize(("rows", "count"), [(3, 4), (24, 3), (127, 1), (100, 7)])
def test_small_minibatches_are_a_permutation_in_equal_parts(rows: int, count: int) -> None:
    parts = shuffled_parts(rows, count, torch.Generator().manual_seed(0))
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(rows))
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(("rows", "count"), [(2003, 2), (1999, 8), (2048, 1), (8101, 8)])
def test_large_minibatches_come_in_few_sizes_and_hold_every_row(rows: int, count: int) -> None:
    parts = shuffled_parts(rows, count, torch.Generator().manual_seed(0))
    assert len(parts) == count
    assert {len(part) % GRAIN for part in parts} == {0}
    assert len({len(part) for part in parts}) == 1
    assert all(len(part.unique()) == len(part) for part in parts[:-1])
    assert torch.equal(torch.cat(parts).unique(), torch.arange(rows))
    assert sum(len(part) for part in parts) - rows < GRAIN * count + count


def test_no_minibatch_is_made_of_rows_that_all_are_in_others() -> None:
    parts = shuffled_parts(2064, 16, torch.Generator().manual_seed(0))
    assert [len(part) for part in parts] == [129] * 16
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(2064))


def test_of_a_large_rollout_less_than_a_grain_is_left_out_and_it_is_the_end() -> None:
    policy = make_policy()
    flags = torch.zeros(50, 3, dtype=torch.bool)
    rewards = torch.randn(50, 3)
    rollout = Rollout(torch.randn(51, 3, D), torch.randn(50, 3, A), rewards, flags, flags, ~flags, flags)
    batch = make_batch(policy, rollout, rewards, 0.9, 0.8)
    assert len(batch) == 144
    assert_close(batch.actions, rollout.actions.flatten(0, 1)[:144])
