"""First episodes are cut at different lengths on both backends, once, and restart as any other."""

import numpy as np
import pytest
import torch

from ratpg.rl.envs import VecEnv, make_vec
from ratpg.rl.envs.stagger import Stagger
from ratpg.rl.episodes import EpisodeTracker
from ratpg.rl.policy import ActorCritic
from ratpg.rl.rollout import Rollout, collect
from ratpg.rl.spec import PolicySpec

BACKENDS = ["envpool", "gymnasium"]
LIMIT = 200  # of Pendulum, whose episodes all last until then


def staggered(env_id: str, num_envs: int, backend: str) -> VecEnv:
    envs = make_vec(env_id, num_envs, seed=0, backend=backend)
    envs.stagger()
    return envs


def rollout_of(envs: VecEnv, steps: int) -> Rollout:
    torch.manual_seed(0)
    policy = ActorCritic(PolicySpec.from_spaces(envs.observation_space, envs.action_space, hidden=(8,)))
    return collect(policy, envs, steps, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("num_envs", [1, 4, 33])
@pytest.mark.parametrize("backend", BACKENDS)
def test_each_first_episode_is_cut_at_its_length_and_no_other(num_envs: int, backend: str) -> None:
    envs = staggered("Pendulum-v1", num_envs, backend)
    rollout = rollout_of(envs, 3 * LIMIT)
    for index in range(num_envs):
        first = LIMIT * (index + 1) // num_envs
        ends = [first + n * (LIMIT + 1) - 1 for n in range(3)]  # with the step that only resets
        expected = [end for end in ends if end < 3 * LIMIT]
        assert torch.nonzero(rollout.truncated[:, index]).flatten().tolist() == expected
        cut = [] if first == LIMIT else [first - 1]  # the last environment's is the simulator's own
        assert torch.nonzero(rollout.cut[:, index]).flatten().tolist() == cut
    assert torch.equal(rollout.valid[1:], ~rollout.done[:-1])
    assert (rollout.rewards[rollout.valid] < 0).all()
    assert (rollout.rewards[~rollout.valid] == 0).all()
    envs.close()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_restart_is_a_reset_and_leaves_the_others_alone(backend: str) -> None:
    steps, num_envs = 60, 8
    plain, cut = (
        make_vec("HalfCheetah-v4", num_envs, seed=0, backend=backend),
        staggered("HalfCheetah-v4", num_envs, backend),
    )
    cut._staggers = [Stagger([10, *[10_000] * (num_envs - 2), 20])]
    generator = np.random.default_rng(0)
    for step in range(steps):
        actions = generator.uniform(-1, 1, (num_envs, 6))
        plain.step(actions)
        cut.step(actions)
        assert torch.equal(plain.observation[1:-1], cut.observation[1:-1])
        for index, length in ((0, 10), (-1, 20)):
            before = step < length
            assert torch.equal(plain.observation[index], cut.observation[index]) == before
            if step == length:  # HalfCheetah starts within 0.1 of rest, give or take its noise of velocities
                assert cut.observation[index][:8].abs().max() <= 0.1
    plain.close()
    cut.close()


@pytest.mark.parametrize("backend", BACKENDS)
def test_all_environments_may_restart_at_once(backend: str) -> None:
    envs = staggered("Pendulum-v1", 3, backend)
    envs._staggers = [Stagger([5, 5, 5])]
    ends = torch.nonzero(rollout_of(envs, LIMIT + 10).truncated[:, 0]).flatten().tolist()
    assert ends == [4, LIMIT + 5]
    envs.close()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_recurrent_policys_memory_begins_anew_with_the_episode(backend: str) -> None:
    envs = staggered("Pendulum-v1", 4, backend)
    torch.manual_seed(0)
    spec = PolicySpec.from_spaces(envs.observation_space, envs.action_space, hidden=(8,), lstm=5)
    policy = ActorCritic(spec)
    memory = policy.new_memory(4)
    first = LIMIT // 4  # of the first environment; the step after it only resets
    collect(policy, envs, first + 1, torch.Generator().manual_seed(0), memory)
    assert not memory.actor[0].any()
    assert memory.actor[1:].any(1).all()
    envs.close()


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_episode_that_ends_by_itself_is_not_cut(backend: str) -> None:
    envs = staggered("CartPole-v1", 4, backend)  # which falls within 100 steps of random actions; the limit is 500
    assert envs.time_limit == 500
    rollout = rollout_of(envs, 600)
    assert rollout.terminated.any(0).all()
    assert not rollout.cut[:, 1:].any()
    envs.close()


def test_an_environment_without_a_time_limit_is_left_alone() -> None:
    envs = make_vec("Pendulum-v1", 2, seed=0, backend="gymnasium")
    envs.time_limit = None
    envs.stagger()
    assert not rollout_of(envs, LIMIT - 1).done.any()


def test_a_cut_episode_counts_as_none() -> None:
    envs = staggered("Pendulum-v1", 4, "envpool")
    rollout, tracker = rollout_of(envs, 2 * LIMIT + 1), EpisodeTracker(4)
    tracker.update(rollout)
    assert set(tracker.lengths) == {LIMIT}
    assert tracker.finished == int((rollout.done & ~rollout.cut).sum()) < int(rollout.done.sum())
    envs.close()


def test_environments_restored_from_ones_in_step_are_in_step() -> None:
    plain = make_vec("Pendulum-v1", 4, seed=0, backend="gymnasium")
    rollout_of(plain, 10)
    envs = staggered("Pendulum-v1", 4, "gymnasium")
    envs.load_state_dict(plain.state_dict())
    assert not rollout_of(envs, LIMIT - 11).done.any()


def test_a_restored_environment_cuts_where_it_would_have() -> None:
    first = staggered("Pendulum-v1", 4, "gymnasium")
    rollout_of(first, 70)
    second = staggered("Pendulum-v1", 4, "gymnasium")
    second.load_state_dict(first.state_dict())
    expected, restored = rollout_of(first, 2 * LIMIT), rollout_of(second, 2 * LIMIT)
    assert expected.cut.any()
    assert torch.equal(expected.cut, restored.cut)
    assert torch.equal(expected.observations, restored.observations)
