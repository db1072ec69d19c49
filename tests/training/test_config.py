"""The run's settings: what is refused, and that they survive JSON."""

import json
import math
from pathlib import Path

import pytest

from ratpg.algorithms.checks import BadConfig
from ratpg.training.config import TrainConfig
from short_runs import short_config

HERE = Path("run")

BAD = [
    *[(name, value) for name in ("total_timesteps", "num_envs", "num_steps", "threads") for value in (0, -1)],
    *[(name, value) for name in ("gamma", "gae_lambda") for value in (-0.1, 1.1, math.nan)],
    *[("checkpoint_interval", value) for value in (-1.0, math.nan)],
    *[("initial_log_std", value) for value in (-100.0, 100.0, math.nan)],
    *[("min_log_std", value) for value in (-100.0, -0.4, math.nan)],  # initial_log_std is -0.5
    ("seed", -1),
    ("activation", "sigmund"),
    ("hidden", ()),
    ("hidden", (64, 0)),
]


def config(**changes: object) -> TrainConfig:
    return TrainConfig(**vars(short_config("CartPole-v1", HERE)) | changes)


@pytest.mark.parametrize("name, value", BAD)
def test_a_value_that_makes_no_sense_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(BadConfig, match=rf"^{name}\b"):
        config(**{name: value})


@pytest.mark.parametrize("name", ["minibatches", "critic_minibatches"])
def test_minibatches_that_do_not_divide_the_rollout_are_refused_with_the_numbers(name: str) -> None:
    with pytest.raises(BadConfig, match=rf"^{name} 3 does not divide .*num_envs 4 x num_steps 32 = 128"):
        short_config("CartPole-v1", HERE, algorithm={name: 3})


def test_minibatches_of_a_critic_that_is_not_there_fit_any_rollout() -> None:
    short_config("CartPole-v1", HERE, shared=True, algorithm={"critic_minibatches": 3})


@pytest.mark.parametrize("name", ["gamma", "gae_lambda"])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_the_ends_of_the_allowed_ranges_are_allowed(name: str, value: float) -> None:
    assert getattr(config(**{name: value}), name) == value


def test_a_config_survives_json() -> None:
    original = short_config("Hopper-v4", HERE, hidden=(8, 4), algorithm={"kl_band": (0.1, 0.2), "max_step_norm": 0.3})
    assert TrainConfig.from_dict(json.loads(json.dumps(original.to_dict()))) == original


def test_the_folder_is_named_after_the_run_unless_given() -> None:
    assert config().directory == HERE
    assert config(run_dir=None, seed=4).directory == Path("runs/CartPole-v1-rat-default-s4")
    assert config(run_dir=None, env="ALE/Pong-v5").directory == Path("runs/ALE_Pong-v5-rat-default-s0")
