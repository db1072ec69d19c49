"""Snapshots of Gymnasium environments: a restored one goes on to the bit, through the ends of episodes."""

import io
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from ratpg.rl.envs import VecEnv, make_vec

BEFORE, AFTER, NUM_ENVS = 13, 60, 2
# How many steps come before the snapshot where that is not BEFORE: a few before the time limit cuts the episode off.
ALMOST_OVER = {"Pendulum-v1": 190, "MountainCar-v0": 190, "Acrobot-v1": 490, "HalfCheetah-v5": 990}
STATES = [
    "CartPole-v1",
    "Pendulum-v1",
    "MountainCar-v0",
    "MountainCarContinuous-v0",
    "Acrobot-v1",
    "Hopper-v4",
    "Ant-v4",
    "HalfCheetah-v5",
    "Humanoid-v4",
]
NEVER_ENDING = {"MountainCarContinuous-v0", "Ant-v4"}

Record = list[tuple[np.ndarray, ...]]


def make(env_id: str, seed: int) -> VecEnv:
    return make_vec(env_id, NUM_ENVS, seed=seed, backend="gymnasium")


def random_actions(envs: VecEnv, count: int, seed: int) -> list[np.ndarray]:
    generator, space = np.random.default_rng(seed), envs.action_space
    if isinstance(space, gym.spaces.Discrete):
        return list(generator.integers(0, int(space.n), (count, NUM_ENVS)))
    return list(generator.uniform(space.low, space.high, (count, NUM_ENVS, *space.shape)).astype(np.float32))


def play(envs: VecEnv, actions: list[np.ndarray]) -> Record:
    record = []
    for action in actions:
        reward, terminated, truncated = envs.step(action)
        record.append((envs.observation.numpy(), reward, terminated, truncated))
    return record


def through_a_file(state: Any) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def assert_bitwise_equal(first: Record, second: Record) -> None:
    for t, (ours, theirs) in enumerate(zip(first, second, strict=True)):
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a, b, err_msg=f"{t} steps after the snapshot", strict=True)


@pytest.mark.parametrize("env_id", STATES)
def test_a_restored_environment_goes_on_to_the_bit(env_id: str) -> None:
    envs = make(env_id, seed=0)
    play(envs, random_actions(envs, ALMOST_OVER.get(env_id, BEFORE), seed=1))
    state = through_a_file(envs.state_dict())
    actions = random_actions(envs, AFTER, seed=2)
    expected = play(envs, actions)
    if env_id not in NEVER_ENDING:
        assert any((terminated | truncated).any() for _, _, terminated, truncated in expected)

    other = make(env_id, seed=99)
    play(other, random_actions(other, 7, seed=3))
    other.load_state_dict(state)
    assert_bitwise_equal(play(other, actions), expected)


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Hopper-v4"])
def test_a_snapshot_between_an_end_and_its_reset_goes_on_to_the_bit(env_id: str) -> None:
    envs = make(env_id, seed=0)
    actions = random_actions(envs, 400, seed=1)
    for taken in range(400):
        play(envs, actions[taken : taken + 1])
        if envs.done.any():
            break
    assert envs.done.any()
    state = through_a_file(envs.state_dict())
    actions = random_actions(envs, AFTER, seed=2)
    expected = play(envs, actions)
    other = make(env_id, seed=99)
    other.load_state_dict(state)
    assert other.done.any()
    assert_bitwise_equal(play(other, actions), expected)


def test_a_restored_environment_shows_the_observation_it_was_left_with() -> None:
    envs = make("Hopper-v4", seed=0)
    play(envs, random_actions(envs, 5, seed=1))
    other = make("Hopper-v4", seed=1)
    other.load_state_dict(envs.state_dict())
    assert torch.equal(other.observation, envs.observation)


def test_going_on_does_not_change_a_snapshot_taken_before() -> None:
    envs = make("Hopper-v4", seed=0)
    play(envs, random_actions(envs, 5, seed=1))
    state = envs.state_dict()
    actions = random_actions(envs, 20, seed=2)
    expected = play(envs, actions)
    envs.load_state_dict(state)
    assert_bitwise_equal(play(envs, actions), expected)
    envs.load_state_dict(state)
    assert_bitwise_equal(play(envs, actions), expected)


def test_a_simulator_whose_state_is_not_known_has_none() -> None:
    assert make("ToyTerminating-v0", seed=0).state_dict() is None
    assert make_vec("CartPole-v1", 2, seed=0, backend="envpool").state_dict() is None


def test_envpool_refuses_a_state() -> None:
    with pytest.raises(ValueError, match="cannot restore"):
        make_vec("CartPole-v1", 2, seed=0, backend="envpool").load_state_dict({})


@pytest.mark.parametrize("env_id", ["ToyStackedCartPole-v0", "ToyDelayedHopper-v0"])
def test_what_cannot_be_restored_whole_is_not_claimed(env_id: str) -> None:
    """A wrapper's or subclass's memory in a list or deque: either it goes on to the bit, or there is no state."""
    envs = make(env_id, seed=0)
    play(envs, random_actions(envs, BEFORE, seed=1))
    state = envs.state_dict()
    if state is None:
        return
    actions = random_actions(envs, AFTER, seed=2)
    expected = play(envs, actions)
    other = make(env_id, seed=99)
    other.load_state_dict(through_a_file(state))
    assert_bitwise_equal(play(other, actions), expected)
