"""Environments that do what is allowed but rare are trained on, evaluated and filmed."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces

import odd_envs  # noqa: F401  registers them
from ratpg.rl.envs import make_vec
from ratpg.rl.envs.faults import EnvironmentFailed
from ratpg.rl.envs.gymnasium import GymnasiumEnv
from ratpg.rl.envs.vec_env import UnsupportedSpace
from ratpg.rl.policy import ActorCritic
from ratpg.rl.spec import PolicySpec
from ratpg.training.evaluate import evaluate
from ratpg.training.trainer import Trainer, load_policy
from short_runs import short_config, train


def test_constants_do_not_stand_in_the_way_of_learning(tmp_path: Path) -> None:
    settings = {"num_steps": 64, "gamma": 0.5, "algorithm": {"minibatches": 2}}
    policy = train(short_config("OddConstants-v0", tmp_path, rollouts=40, **settings)).policy
    assert evaluate(policy, "OddConstants-v0", episodes=20, seed=1).mean > -0.5  # -5 where nothing is learnt


@pytest.mark.parametrize("bounds", ["clip", "censor", "tanh"])
def test_the_greatest_integer_is_taken(bounds: str, tmp_path: Path) -> None:
    """The environment checks that every action is a member of its space."""
    settings = {"action_bounds": bounds, "gamma": 0.5, "env_options": ("low=-1", "high=1")}
    train(short_config("OddInteger-v0", tmp_path, rollouts=20, **settings))
    policy, config = load_policy(tmp_path)
    assert policy.spec.action_dtype == "int64"
    result = evaluate(policy, config.env, episodes=3, seed=1, options={"low": -1, "high": 1})
    assert result.returns == [0.0] * 3


@pytest.mark.parametrize(
    ("sample", "taken"),
    [(-9.0, -1), (-0.6, -1), (-0.4, 0), (0.0, 0), (0.4, 0), (0.6, 1), (9.0, 1)],
)
@pytest.mark.parametrize("dtype", ["int8", "int64"])
def test_actions_are_rounded_to_the_nearest_integer(sample: float, taken: int, dtype: str) -> None:
    policy = ActorCritic(PolicySpec((1,), (1,), action_low=(-1.0,), action_high=(1.0,), action_dtype=dtype))
    action = policy.environment_actions(torch.tensor([[sample]]))
    assert action.dtype == np.dtype(dtype)
    assert action.tolist() == [[taken]]


@pytest.mark.parametrize("value", [2**24 + 1, 2**53 + 1, 2**63 - 1, -(2**63)])
def test_integers_that_floats_cannot_hold_are_bounds_all_the_same(value: int) -> None:
    space = spaces.Box(value, value, (1,), np.int64)
    policy = ActorCritic(PolicySpec.from_spaces(spaces.Box(-1, 1, (1,), np.float32), space))
    (action,) = policy.environment_actions(torch.zeros(1, 1))
    assert space.contains(action)


@pytest.mark.parametrize("lstm", [None, 4])
def test_an_environment_may_use_autograd(lstm: int | None, tmp_path: Path) -> None:
    trainer = train(short_config("OddDifferentiates-v0", tmp_path, rollouts=2, lstm=lstm, num_envs=8, num_steps=16))
    assert trainer.episodes.return_mean() == 10
    watched: list[bool] = []

    def watch(envs: object) -> None:
        watched.append(torch.is_grad_enabled() and not torch.is_inference_mode_enabled())

    result = evaluate(trainer.policy, "OddDifferentiates-v0", episodes=2, seed=0, watch=watch)
    assert result.returns == [10.0, 10.0]
    assert all(watched)


def test_nobody_minds_what_info_holds(tmp_path: Path) -> None:
    assert train(short_config("OddInforms-v0", tmp_path, rollouts=2)).episodes.return_mean() == 10


@pytest.mark.parametrize("form", ["float", "int", "bool", "array", "scalar", "nested", "list"])
def test_a_reward_may_be_one_number_of_any_form(form: str) -> None:
    envs = make_vec("OddPays-v0", 2, seed=0, options={"form": form})
    reward, terminated, truncated = envs.step(np.zeros(2, np.int64))
    assert reward.tolist() == [1.0, 1.0]
    assert reward.dtype == np.float64
    assert terminated.dtype == truncated.dtype == bool


@pytest.mark.parametrize(
    ("form", "told"), [("pair", r"float64 of shape \(2,\)"), ("nothing", "object of shape"), ("word", "of shape")]
)
def test_another_reward_is_refused(form: str, told: str, tmp_path: Path) -> None:
    trainer = Trainer.start(short_config("OddPays-v0", tmp_path, env_options=(f"form={form}",)))
    with pytest.raises(EnvironmentFailed, match=f"reward must be one number, got .*{told}"):
        trainer.run()


@pytest.mark.parametrize("what", ["observation_space", "action_space"])
def test_copies_of_an_environment_have_one_space(what: str) -> None:
    with pytest.raises(UnsupportedSpace, match=f"all copies of OddUnequal-v0 must have one {what}: .*copy 1 has Box"):
        make_vec("OddUnequal-v0", 3, seed=0, options={"what": what})


@pytest.mark.parametrize(
    ("told", "rate"),
    [
        (np.float32(12.5), Fraction(25, 2)),
        (np.int64(24), Fraction(24)),
        (50, Fraction(50)),
        (29.97, Fraction(2997, 100)),
        *((nonsense, Fraction(30)) for nonsense in (None, 0, -3, float("nan"), float("inf"), "fast", [30])),
    ],
)
def test_frames_per_second_are_numbers_of_any_form(told: object, rate: Fraction) -> None:
    envs = make_vec("OddInforms-v0", 1, seed=0)
    assert isinstance(envs, GymnasiumEnv)
    envs._envs[0].unwrapped.metadata = {"render_fps": told}
    assert envs.frames_per_second == rate
