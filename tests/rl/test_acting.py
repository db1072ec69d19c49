"""`make_actor`: the fast path gives the actions that the policy's own modules give."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn
from torch.testing import assert_close

from ratpg.rl.acting import _ModuleActor, _PerceptronActor, make_actor
from ratpg.rl.policy import ActorCritic
from ratpg.rl.spec import PolicySpec

STEPS, ENVS = 3, 7
SPACES = {
    "clipped": (spaces.Box(np.array([-1.0, 0.0], np.float32), np.array([3.0, 0.5], np.float32)), "clip"),
    "squashed": (spaces.Box(-2.0, 2.0, (1,), np.float32), "tanh"),
    "unbounded": (spaces.Box(-np.inf, np.inf, (2, 3), np.float32), "clip"),
    "discrete": (spaces.Discrete(4, start=-1), "clip"),
}


def policy_over(space: gym.Space, **options: object) -> ActorCritic:
    torch.manual_seed(0)
    policy = ActorCritic(PolicySpec.from_spaces(spaces.Box(-9, 9, (2, 5), np.float64), space, **options))
    with torch.no_grad():
        policy.actor.head.weight.mul_(100)  # else every action is nearly its noise
        policy.actor.head.bias.add_(0.3)
    policy.normalizer.update(torch.randn(50, 10) * 3 + 1)
    return policy


def acted(kind: type, policy: ActorCritic) -> tuple[list[np.ndarray], torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    noise, actions = policy.draw_noise((STEPS, ENVS), generator), policy.empty_actions((STEPS, ENVS))
    actor = make_actor(policy, noise, actions)
    if kind is _ModuleActor:
        actor = _ModuleActor(policy, noise, actions)
    assert type(actor) is kind
    rng = np.random.default_rng(0)
    sent = []
    for step in range(STEPS):
        observations = rng.normal(size=(ENVS, 2, 5)) * 4  # some pass the limit of the normaliser
        for where in (slice(0, 3), slice(3, ENVS)):
            given = observations[where].copy()
            sent.append(actor(step, where, observations[where]))
            np.testing.assert_array_equal(observations[where], given)
    return sent, actions


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("name", SPACES)
def test_a_perceptrons_actions_are_those_of_its_modules(name: str, activation: str) -> None:
    space, bounds = SPACES[name]
    policy = policy_over(space, action_bounds=bounds, activation=activation, hidden=(16, 8))
    (fast, fast_actions), (slow, slow_actions) = acted(_PerceptronActor, policy), acted(_ModuleActor, policy)
    assert_close(fast_actions, slow_actions)
    for a, b in zip(fast, slow, strict=True):
        assert a.dtype == b.dtype
        assert_close(a, b)


def test_the_parameters_are_those_of_the_moment_it_is_made() -> None:
    policy = policy_over(SPACES["clipped"][0], hidden=(16,))
    _, before = acted(_PerceptronActor, policy)
    with torch.no_grad():
        policy.actor.body[0].weight.mul_(2)
    _, after = acted(_PerceptronActor, policy)
    assert not torch.equal(before, after)


@pytest.mark.parametrize("layer", [nn.LayerNorm(16), nn.Identity()])
def test_other_layers_are_called_as_they_are(layer: nn.Module) -> None:
    policy = policy_over(SPACES["clipped"][0], hidden=(16,))
    policy.actor.body.append(layer)
    acted(_ModuleActor, policy)
    noise, actions = policy.draw_noise((1, 2), torch.Generator()), policy.empty_actions((1, 2))
    assert isinstance(make_actor(policy, noise, actions), _ModuleActor)
