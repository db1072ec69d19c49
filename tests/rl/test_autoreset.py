"""Next-step reset on both backends: the end shows the true final observation, the step after it only resets."""

import numpy as np
import pytest
import torch

from ratpg.rl.envs import make_vec
from ratpg.rl.policy import ActorCritic
from ratpg.rl.rollout import Rollout, collect
from ratpg.rl.spec import PolicySpec

BACKENDS = ["envpool", "gymnasium"]
PENDULUM_LIMIT, CARTPOLE_ANGLE, CARTPOLE_POSITION = 200, 0.2095, 2.4


def rollout_of(env_id: str, backend: str, steps: int, num_envs: int = 3) -> Rollout:
    envs = make_vec(env_id, num_envs, seed=0, backend=backend)
    torch.manual_seed(0)
    policy = ActorCritic(PolicySpec.from_spaces(envs.observation_space, envs.action_space, hidden=(8,)))
    rollout = collect(policy, envs, steps, torch.Generator().manual_seed(0))
    envs.close()
    return rollout


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Hopper-v4", "Acrobot-v1"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_exactly_the_step_after_an_end_is_masked_and_pays_nothing(env_id: str, backend: str) -> None:
    rollout = rollout_of(env_id, backend, 600)
    assert rollout.done[:-1].any()
    assert rollout.valid[0].all()
    assert torch.equal(rollout.valid[1:], ~rollout.done[:-1])
    assert (rollout.rewards[~rollout.valid] == 0).all()
    assert not rollout.done[~rollout.valid].any()
    assert (rollout.rewards[rollout.valid & ~rollout.done] != 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_terminated_cartpole_shows_the_state_that_ended_it_and_then_a_new_one(backend: str) -> None:
    rollout = rollout_of("CartPole-v1", backend, 200)
    assert rollout.terminated.any()
    assert not rollout.truncated.any()
    position, angle = rollout.observations[..., 0].abs(), rollout.observations[..., 2].abs()
    outside = (position > CARTPOLE_POSITION) | (angle > CARTPOLE_ANGLE)
    assert torch.equal(outside[1:], rollout.terminated)  # row t + 1 is what step t led to
    fresh = rollout.observations[1:][~rollout.valid]
    assert len(fresh) > 5
    assert (fresh.abs() <= 0.05).all()  # CartPole starts within ±0.05


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_time_limit_truncates_and_the_next_episode_gets_its_whole_time(backend: str) -> None:
    rollout = rollout_of("Pendulum-v1", backend, 2 * PENDULUM_LIMIT + 5)
    ends = [PENDULUM_LIMIT - 1, 2 * PENDULUM_LIMIT]  # one step between the two only resets
    expected = torch.zeros_like(rollout.truncated)
    expected[ends] = True
    assert torch.equal(rollout.truncated, expected)
    assert not rollout.terminated.any()
    assert torch.equal(rollout.valid[1:], ~expected[:-1])
    assert (rollout.rewards[rollout.valid] < 0).all()
    assert (rollout.rewards[~rollout.valid] == 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_observation_of_a_truncated_step_is_the_true_final_one(backend: str) -> None:
    rollout = rollout_of("Pendulum-v1", backend, PENDULUM_LIMIT + 1)
    # A pendulum turns at most 8 rad/s · 0.05 s a step, and its speed changes by at most 1.05; a reset is a leap.
    angle = torch.atan2(rollout.observations[..., 1], rollout.observations[..., 0])
    turn = (angle[1:] - angle[:-1] + np.pi) % (2 * np.pi) - np.pi
    speed = rollout.observations[..., 2]
    moved = turn - 0.05 * speed[1:]  # the equation of motion: the new angle is the old one plus dt times new speed
    assert moved[rollout.valid].abs().max() < 1e-4
    assert moved[~rollout.valid].abs().max() > 1e-2


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_action_is_ignored_where_the_step_only_resets(backend: str) -> None:
    fresh = []
    for last in (-2.0, 2.0):
        envs = make_vec("Pendulum-v1", 2, seed=0, backend=backend)
        for _ in range(PENDULUM_LIMIT):
            envs.step(np.zeros((2, 1), dtype=np.float32))
        assert envs.done.all()
        envs.step(np.full((2, 1), last, dtype=np.float32))
        fresh.append(envs.observation)
        envs.close()
    assert torch.equal(*fresh)
