"""What is read off an environment's spaces."""

import dataclasses
import json

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from ratpg.rl.envs.vec_env import UnsupportedSpace
from ratpg.rl.spec import PolicySpec

OBSERVATION = spaces.Box(-np.inf, np.inf, (5,), np.float64)
IMAGE = spaces.Box(0, 255, (3, 64, 64), np.uint8)


@pytest.mark.parametrize(
    "space, kind, head_size",
    [
        (spaces.Box(-1, 1, (2, 3), np.float32), "gaussian", 6),
        (spaces.Discrete(4), "categorical", 4),
        (spaces.Discrete(2), "categorical", 2),
        (spaces.MultiDiscrete([3, 2, 4]), "multi-categorical", 9),
        (spaces.MultiDiscrete([[3, 2], [4, 2]]), "multi-categorical", 11),
        (spaces.MultiDiscrete([2, 2]), "bernoulli", 2),
        (spaces.MultiBinary(3), "bernoulli", 3),
        (spaces.MultiBinary([2, 3]), "bernoulli", 6),
    ],
    ids=str,
)
def test_each_action_space_has_its_distribution(space: gym.Space, kind: str, head_size: int) -> None:
    spec = PolicySpec.from_spaces(OBSERVATION, space)
    assert (spec.action_kind, spec.head_size) == (kind, head_size)


@pytest.mark.parametrize(
    "observation_space, action_space, culprit",
    [
        (spaces.Dict({"a": OBSERVATION}), spaces.Discrete(2), "Dict"),
        (OBSERVATION, spaces.Tuple((spaces.Discrete(2), spaces.Discrete(2))), "Tuple"),
        (OBSERVATION, spaces.Box(0.0, np.inf, (2,), np.float32), "bounded on all sides"),
        (OBSERVATION, spaces.Box(0.0, np.finfo(np.float64).max, (2,), np.float64), "bounded on all sides"),
        (spaces.Box(-1, 1, (), np.float32), spaces.Discrete(2), r"observations.*at least one number"),
        (spaces.Box(-1, 1, (0,), np.float32), spaces.Discrete(2), r"observations.*at least one number"),
        (OBSERVATION, spaces.Box(-1, 1, (0,), np.float32), r"actions.*at least one number"),
    ],
)
def test_an_unsupported_space_is_refused_by_name(
    observation_space: gym.Space, action_space: gym.Space, culprit: str
) -> None:
    with pytest.raises(UnsupportedSpace, match=culprit):
        PolicySpec.from_spaces(observation_space, action_space)


@pytest.mark.parametrize(
    "space, network",
    [
        (IMAGE, "nature-cnn"),
        (OBSERVATION, "mlp"),
        (spaces.Box(0, 255, (128,), np.uint8), "mlp"),  # the memory of an Atari
        (spaces.Box(0, 1, (3, 64, 64), np.float32), "mlp"),
    ],
    ids=str,
)
def test_the_network_follows_from_the_observations_unless_it_is_told(space: spaces.Box, network: str) -> None:
    assert PolicySpec.from_spaces(space, spaces.Discrete(2), "auto").network == network
    assert PolicySpec.from_spaces(space, spaces.Discrete(2), "mlp").network == "mlp"


def test_a_convolutional_network_is_for_images() -> None:
    assert PolicySpec.from_spaces(IMAGE, spaces.Discrete(2), "impala").network == "impala"
    with pytest.raises(UnsupportedSpace, match=r"impala.*images"):
        PolicySpec.from_spaces(OBSERVATION, spaces.Discrete(2), "impala")


def test_frames_that_are_stacked_in_a_dimension_of_their_own_are_refused() -> None:
    frames = spaces.Box(0, 255, (4, 96, 96, 3), np.uint8)
    with pytest.raises(UnsupportedSpace, match="three dimensions"):
        PolicySpec.from_spaces(frames, spaces.Discrete(2), "auto")
    assert PolicySpec.from_spaces(frames, spaces.Discrete(2), "mlp").network == "mlp"


@pytest.mark.parametrize(
    "shape, image_shape",
    [
        ((3, 64, 64), (3, 64, 64)),
        ((64, 60, 3), (3, 64, 60)),
        ((4, 84, 84), (4, 84, 84)),
        ((84, 84, 1), (1, 84, 84)),
        ((96, 96, 12), (12, 96, 96)),  # four frames of three colours
        ((12, 96, 96), (12, 96, 96)),
    ],
)
def test_colours_are_found_first_or_last(shape: tuple[int, ...], image_shape: tuple[int, ...]) -> None:
    spec = PolicySpec.from_spaces(spaces.Box(0, 255, shape, np.uint8), spaces.Discrete(2))
    assert spec.image_shape == image_shape


def test_a_spec_survives_plain_values() -> None:
    spec = PolicySpec.from_spaces(IMAGE, spaces.MultiDiscrete([3, 2]), "impala", lstm=8, shared=True)
    assert PolicySpec.from_dict(json.loads(json.dumps(dataclasses.asdict(spec)))) == spec
