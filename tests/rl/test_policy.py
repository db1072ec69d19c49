"""Policies: what the simulator gets, what is refused, and that what is saved is what acts."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor
from torch.testing import assert_close

from ratpg.rl.distributions import CensoredGaussian, DiagonalGaussian
from ratpg.rl.envs.vec_env import UnsupportedSpace
from ratpg.rl.policy import ActorCritic
from ratpg.rl.spec import PolicySpec

OBSERVATION = spaces.Box(-np.inf, np.inf, (5,), np.float64)
ASYMMETRIC = spaces.Box(np.array([-1.0, 0.0], np.float32), np.array([3.0, 0.5], np.float32))


def make_policy(action_space: gym.Space, observation_space: gym.Space = OBSERVATION, **options: object) -> ActorCritic:
    torch.manual_seed(0)
    return ActorCritic(PolicySpec.from_spaces(observation_space, action_space, hidden=(8,), **options))


def observations(count: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(count, 5, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("bounds", ["clip", "censor", "tanh"])
def test_zero_is_mapped_to_the_middle_of_the_bounds(bounds: str) -> None:
    policy = make_policy(ASYMMETRIC, action_bounds=bounds)
    assert_close(policy.environment_actions(torch.zeros(1, 2)), np.array([[1.0, 0.25]], np.float32))


@pytest.mark.parametrize("bounds", ["clip", "censor"])
def test_clipping_maps_plus_and_minus_one_and_all_beyond_to_the_bounds(bounds: str) -> None:
    policy = make_policy(ASYMMETRIC, action_bounds=bounds)
    actions = policy.environment_actions(torch.tensor([[-1.0, 1.0], [-9.0, 9.0], [0.5, -0.5]]))
    assert_close(actions, np.array([[-1.0, 0.5], [-1.0, 0.5], [2.0, 0.125]], np.float32))


def test_tanh_squashes_into_the_bounds() -> None:
    policy = make_policy(ASYMMETRIC, action_bounds="tanh")
    actions = policy.environment_actions(torch.tensor([[50.0, -50.0], [0.3, -0.3]]))
    squashed = np.tanh(0.3)
    expected = np.array([[3.0, 0.0], [1 + 2 * squashed, 0.25 - 0.25 * squashed]], np.float32)
    assert_close(actions, expected)


@pytest.mark.parametrize("bounds", ["clip", "censor", "tanh"])
@pytest.mark.parametrize(
    "action_space",
    [
        ASYMMETRIC,
        spaces.Box(-2.0, 2.0, (1,), np.float32),
        spaces.Box(-1.0, 1.0, (2, 3), np.float32),
        spaces.Box(np.linspace(-1, 0, 50, dtype=np.float32), np.linspace(0.01, 7, 50, dtype=np.float32)),
        spaces.Box(np.array([-0.1, -0.6, 0.1]), np.array([0.3, 1.1, 0.7]), dtype=np.float64),
        spaces.Box(-np.inf, np.inf, (2,), np.float32),
        spaces.Box(0.0, np.inf, (2,), np.float32),
        spaces.Box(-1e300, 1e300, (2,), np.float64),
        spaces.Discrete(3, start=-1),
        spaces.MultiDiscrete([3, 2, 4], start=[0, 5, -1]),
        spaces.MultiDiscrete([[3, 2], [4, 2]]),
        spaces.MultiDiscrete([2, 2]),
        spaces.MultiBinary(3),
        spaces.MultiBinary([2, 3]),
    ],
    ids=lambda space: str(space)[:40],
)
def test_every_action_lies_in_the_space_or_the_space_is_refused(action_space: gym.Space, bounds: str) -> None:
    try:
        policy = make_policy(action_space, action_bounds=bounds)
    except UnsupportedSpace:
        return
    generator = torch.Generator().manual_seed(0)
    noise = policy.draw_noise((200,), generator)
    distribution = policy.actor(policy.normalize(observations(200))).detach()
    for action in policy.environment_actions(distribution.sample(noise)):
        assert action_space.contains(action.astype(action_space.dtype)), action


def test_censoring_is_for_bounded_actions() -> None:
    unbounded = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    for space, kind in ((ASYMMETRIC, CensoredGaussian), (unbounded, DiagonalGaussian)):
        policy = make_policy(space, action_bounds="censor")
        assert isinstance(policy.actor(observations()), kind)


def test_unbounded_actions_pass_unchanged() -> None:
    policy = make_policy(spaces.Box(-np.inf, np.inf, (2,), np.float32))
    actions = torch.tensor([[-7.0, 100.0]])
    assert_close(policy.environment_actions(actions), actions.numpy())


def test_discrete_actions_start_where_the_space_does() -> None:
    policy = make_policy(spaces.Discrete(3, start=-1))
    assert policy.environment_actions(torch.tensor([0, 1, 2])).tolist() == [-1, 0, 1]


@pytest.mark.parametrize("action_space", [ASYMMETRIC, spaces.Discrete(4)], ids=str)
def test_acting_is_deterministic_and_takes_the_mode(action_space: gym.Space) -> None:
    policy = make_policy(action_space)
    actions = policy.act(observations())
    assert_close(policy.act(observations()), actions)
    mode = policy.actor(policy.normalize(observations())).mode()
    assert_close(policy.environment_actions(mode.detach()), actions)


def test_multi_dimensional_observations_are_flattened() -> None:
    policy = make_policy(spaces.Discrete(2), spaces.Box(-1, 1, (2, 3), np.float32))
    batch = torch.arange(4 * 7 * 6.0).view(4, 7, 2, 3)
    normalized = policy.normalize(batch)
    assert normalized.shape == (4, 7, 6)
    assert_close(normalized[1, 2], batch[1, 2].flatten().clamp(-5, 5))
    assert policy.value(normalized[0]).shape == (7,)


def test_multi_dimensional_actions_have_the_shape_of_the_space() -> None:
    policy = make_policy(spaces.Box(-1, 1, (2, 3), np.float32))
    assert policy.act(observations(4)).shape == (4, 2, 3)


def test_first_weights_are_orthogonal_or_as_pytorch_draws_them() -> None:
    orthogonal, drawn = (make_policy(ASYMMETRIC, initial_weights=kind) for kind in ("orthogonal", "pytorch"))
    weight, head = orthogonal.actor.body[0].weight, orthogonal.actor.head.weight
    assert_close(weight.T @ weight, 2 * torch.eye(5))
    assert_close(head @ head.T, 1e-4 * torch.eye(2))
    for layer in (drawn.actor.body[0], drawn.actor.head, drawn.critic[0][0]):
        bound = layer.in_features**-0.5
        assert 0.5 * bound < layer.weight.abs().max() <= bound
        assert layer.bias.abs().max() > 0


def test_noise_is_brought_up_to_the_least_there_may_be() -> None:
    policy = make_policy(ASYMMETRIC, initial_log_std=-0.7)
    with torch.no_grad():
        policy.actor.log_std.value[1] = -6.0
    policy.widen(-2.5)
    assert_close(policy.actor.log_std.value.detach(), torch.tensor([-0.7, -2.5]))


def test_a_gaussian_starts_with_the_log_std_it_was_given() -> None:
    policy = make_policy(ASYMMETRIC, initial_log_std=-0.7)
    assert_close(policy.actor(observations()).log_std, torch.full((6, 2), -0.7))


def test_what_is_saved_is_what_acts() -> None:
    policy = make_policy(ASYMMETRIC)
    policy.normalizer.update(3 * observations(100, seed=1) + 2)
    policy.value_head.update(torch.arange(10.0))
    copy = make_policy(ASYMMETRIC)
    for parameter in copy.parameters():
        torch.nn.init.normal_(parameter)
    copy.load_state_dict(policy.state_dict())
    assert_close(copy.act(observations()), policy.act(observations()), rtol=0, atol=0)
    values = [p.value(p.normalize(observations())) for p in (policy, copy)]
    assert_close(values[0], values[1], rtol=0, atol=0)


def test_observations_are_normalized_before_they_are_acted_on() -> None:
    policy = make_policy(ASYMMETRIC)
    before = policy.act(observations())
    policy.normalizer.update(3 * observations(100, seed=1) + 2)
    assert not np.allclose(policy.act(observations()), before)


def test_actor_and_critic_share_no_parameter() -> None:
    policy = make_policy(ASYMMETRIC)
    assert not {id(p) for p in policy.actor.parameters()} & {id(p) for p in policy.critic.parameters()}
