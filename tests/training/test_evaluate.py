"""Deterministic evaluation: whole episodes, one an environment."""

import numpy as np
import pytest
import torch

from ratpg.rl.envs import make_vec
from ratpg.rl.policy import ActorCritic
from ratpg.rl.spec import PolicySpec
from ratpg.training.evaluate import evaluate


def policy_for(env_id: str, backend: str) -> ActorCritic:
    envs = make_vec(env_id, 1, seed=0, backend=backend)
    envs.close()
    torch.manual_seed(0)
    return ActorCritic(PolicySpec.from_spaces(envs.observation_space, envs.action_space, hidden=(8,)))


def evaluate_toy(env_id: str = "ToyTerminating-v0", episodes: int = 3) -> object:
    return evaluate(policy_for(env_id, "gymnasium"), env_id, episodes=episodes, seed=0, backend="gymnasium")


@pytest.mark.parametrize("env_id", ["ToyTerminating-v0", "ToyTruncating-v0"])
def test_the_return_of_a_known_episode_is_the_sum_of_its_rewards(env_id: str) -> None:
    result = evaluate_toy(env_id)
    assert result.returns == [6.0, 6.0, 6.0]
    assert (result.mean, result.std) == (6.0, 0.0)


@pytest.mark.parametrize("backend", ["envpool", "gymnasium"])
def test_returns_are_those_of_first_episodes_played_one_by_one(backend: str) -> None:
    policy = policy_for("CartPole-v1", backend)
    result = evaluate(policy, "CartPole-v1", episodes=4, seed=5, backend=backend)
    envs = make_vec("CartPole-v1", 4, seed=5, backend=backend)
    returns: list[float | None] = [None] * 4
    rewards = []
    while None in returns:
        reward, terminated, truncated = envs.step(policy.act(envs.observation))
        rewards.append(reward)
        for n in np.flatnonzero(terminated | truncated):
            returns[n] = float(np.sum(rewards, 0)[n]) if returns[n] is None else returns[n]
    envs.close()
    assert len(set(returns)) > 1  # episodes of different lengths, so that a second one would show
    assert result.returns == returns
    assert result.mean == pytest.approx(np.mean(returns))
    assert result.std == pytest.approx(np.std(returns))


def test_evaluation_does_not_change_the_policy() -> None:
    policy = policy_for("CartPole-v1", "gymnasium")
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    evaluate(policy, "CartPole-v1", episodes=2, seed=0, backend="gymnasium")
    for name, value in policy.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_episodes_without_an_end_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ratpg.training.evaluate.LONGEST", 2)
    with pytest.raises(ValueError, match="3 of 3 episodes of ToyTruncating-v0 have not ended after 2 steps"):
        evaluate_toy("ToyTruncating-v0")


def test_a_policy_for_other_observations_is_refused() -> None:
    with pytest.raises(ValueError, match=r"observation_shape \(4,\), and Pendulum-v1 with these options has \(3,\)"):
        evaluate(policy_for("CartPole-v1", "gymnasium"), "Pendulum-v1", episodes=1, seed=0, backend="gymnasium")


def test_a_policy_for_other_actions_is_refused() -> None:
    """They may be as many numbers that mean something else, and the returns would be of nothing."""
    policy, options = policy_for("Pong-v5", "envpool"), {"full_action_space": True, "max_episode_steps": 30}
    with pytest.raises(ValueError, match=r"choices \(6,\), and Pong-v5 with these options has \(18,\)"):
        evaluate(policy, "Pong-v5", episodes=1, seed=0, options=options)
