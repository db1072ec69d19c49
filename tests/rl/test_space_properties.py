"""Any spaces: a rollout, a batch, evaluation and the exported policy; every action is a member of its space."""

import itertools
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from ratpg.integrations.onnx import DeterministicPolicy
from ratpg.rl.batch import make_batch
from ratpg.rl.envs import make_vec
from ratpg.rl.policy import ActorCritic
from ratpg.rl.rollout import collect
from ratpg.rl.spec import PolicySpec
from ratpg.training.evaluate import evaluate

ENVS, STEPS = 2, 7


class Any_(gym.Env):
    """Shows samples of its observation space; checks that actions are of its action space."""

    def __init__(self, number: int):
        self.observation_space, self.action_space = SPACES[number]
        self.observation_space.seed(0)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self.taken = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any):
        assert self.action_space.contains(action), (action, self.action_space)
        self.taken += 1
        return self.observation_space.sample(), 1.0, self.taken == 3, False, {}


SPACES: dict[int, tuple[gym.Space, gym.Space]] = {}
gym.register("AnySpaces-v0", entry_point=Any_)
numbers = itertools.count()

FLOATS, INTEGERS = ["float16", "float32", "float64"], ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64"]
shapes = st.lists(st.integers(1, 3), min_size=1, max_size=2).map(tuple)


@st.composite
def boxes(draw: st.DrawFn, observed: bool) -> spaces.Box:
    """Bounded on all sides; observations also on none."""
    dtype, shape = (
        np.dtype(draw(st.sampled_from(FLOATS + INTEGERS))),
        draw(shapes if observed else shapes | st.just(())),
    )
    if dtype.kind == "f":
        if draw(st.booleans()):
            return spaces.Box(-np.inf, np.inf, shape, dtype)
        largest = min(1e6, float(np.finfo(dtype).max) / 4)
        bound = st.floats(-largest, largest, width=16 if dtype == np.float16 else 32)
        low = np.array(draw(bound)).astype(dtype)
        width = draw(st.floats(0.125, 1e3, width=16))
        high = (low + np.array(width, dtype)).astype(dtype)
        return spaces.Box(np.full(shape, low), np.full(shape, high), shape, dtype)
    info = np.iinfo(dtype)
    low, high = sorted(draw(st.tuples(*[st.integers(int(info.min), int(info.max))] * 2)))
    return spaces.Box(np.full(shape, low, dtype), np.full(shape, high, dtype), shape, dtype)


sizes = st.lists(st.integers(1, 4), min_size=1, max_size=3)
discrete = st.builds(lambda n, start: spaces.Discrete(n, start=start), st.integers(1, 5), st.integers(-3, 3))
multi_discrete = sizes.map(spaces.MultiDiscrete) | sizes.map(lambda n: spaces.MultiDiscrete([n, n]))
multi_binary = st.integers(1, 4).map(spaces.MultiBinary) | shapes.map(lambda s: spaces.MultiBinary(list(s)))
parts = boxes(observed=True) | discrete | multi_discrete | multi_binary
dicts = st.dictionaries(st.sampled_from("abc"), parts, min_size=1).map(spaces.Dict)
observation_spaces = parts | dicts | st.lists(parts, min_size=1, max_size=2).map(lambda p: spaces.Tuple(p))
action_spaces = boxes(observed=False) | discrete | multi_discrete | multi_binary
bounds = st.sampled_from(["clip", "censor", "tanh"])


def check(observation_space: gym.Space, action_space: gym.Space, action_bounds: str, modules: bool) -> None:
    """Runs a policy whose actions pass their bounds now and then."""
    number = next(numbers)
    SPACES[number] = observation_space, action_space
    envs = make_vec("AnySpaces-v0", ENVS, seed=0, backend="gymnasium", options={"number": number})
    torch.manual_seed(number)
    spec = PolicySpec.from_spaces(
        envs.observation_space, envs.action_space, hidden=(4,), action_bounds=action_bounds, initial_log_std=0.5
    )
    policy = ActorCritic(spec)
    torch.nn.init.normal_(policy.actor.head.weight)
    if modules:
        policy.actor.body.append(torch.nn.Identity())  # which the fast path does not know
    for _ in range(2):  # the second with statistics
        rollout = collect(policy, envs, STEPS, torch.Generator().manual_seed(0))
        batch = make_batch(policy, rollout, rollout.rewards, 0.9, 0.9)
        assert batch.log_prob.isfinite().all()
        assert batch.observations.dtype == torch.float32
        assert batch.observations.isfinite().all()
        policy.observe(rollout.observations[:-1][rollout.valid])
    actions = policy.act(envs.observation)
    assert all(action_space.contains(action) for action in actions.astype(action_space.dtype))
    with torch.no_grad():
        exported = DeterministicPolicy(policy)(envs.observation)
    np.testing.assert_allclose(exported.numpy().astype(np.float64), actions.astype(np.float64), rtol=1e-5, atol=1e-5)
    options = {"number": number}
    result = evaluate(policy, "AnySpaces-v0", episodes=2, seed=0, backend="gymnasium", options=options)
    assert result.returns == [3.0, 3.0]


@pytest.fixture(autouse=True)
def quiet() -> Any:
    with warnings.catch_warnings():  # of Gymnasium, about bounds that single precision rounds
        warnings.simplefilter("ignore")
        yield


@given(observation_spaces, action_spaces, bounds, st.booleans())
def test_any_spaces(observation_space: gym.Space, action_space: gym.Space, action_bounds: str, modules: bool) -> None:
    check(observation_space, action_space, action_bounds, modules)


@pytest.mark.slow
@settings(settings.get_profile("slow"))
@given(observation_spaces, action_spaces, bounds, st.booleans())
def test_any_spaces_at_length(
    observation_space: gym.Space, action_space: gym.Space, action_bounds: str, modules: bool
) -> None:
    check(observation_space, action_space, action_bounds, modules)
