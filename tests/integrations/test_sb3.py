"""RAT in Stable-Baselines3: its steps are the natural gradient's; it is saved and goes on as others there are."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

from ratpg.algorithms.checks import BadConfig
from ratpg.integrations.sb3 import RAT
from ratpg.natgrad import dense

SHORT = {"n_steps": 32, "batch_size": 64, "critic_batch_size": 32, "n_epochs": 1, "critic_epochs": 1, "device": "cpu"}
NUMBERS = spaces.Box(-1, 1, (3,))
SPACES = {
    "box": (NUMBERS, spaces.Box(-2, 2, (2,))),
    "discrete": (NUMBERS, spaces.Discrete(4)),
    "multi-discrete": (NUMBERS, spaces.MultiDiscrete([3, 2])),
    "multi-binary": (NUMBERS, spaces.MultiBinary(3)),
    "dict": (spaces.Dict({"a": NUMBERS, "b": spaces.Discrete(3)}), spaces.Discrete(2)),
}


class Noise(gym.Env[Any, Any]):
    """Observations and rewards by chance; an episode lasts ten steps."""

    def __init__(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]):
        self.observation_space, self.action_space, self.step_count = observation_space, action_space, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.step_count = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.step_count += 1
        return self.observation_space.sample(), float(self.np_random.normal()), False, self.step_count == 10, {}


class Snapshot(BaseCallback):
    """The policy as it was when the rollout ended."""

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self.before = deepcopy(self.model.policy)


def model_of(name: str, **options: Any) -> RAT:
    env = make_vec_env(lambda: Noise(*SPACES[name]), 2, seed=0)
    policy = "MultiInputPolicy" if name == "dict" else "MlpPolicy"
    return RAT(policy, env, seed=0, policy_kwargs={"net_arch": [8, 8]}, **SHORT | options)


@pytest.mark.parametrize("name", SPACES)
def test_the_actor_takes_the_damped_natural_gradient_of_the_rollout(name: str) -> None:
    model, snapshot = model_of(name, damping=0.3), Snapshot()
    model.learn(64, callback=snapshot)
    before = snapshot.before
    (rollout,) = model.rollout_buffer.get()
    actor = [n for n, _ in before.named_parameters() if "value" not in n]
    parameters = [dict(before.named_parameters())[n] for n in actor]
    actions = rollout.actions.long().flatten() if isinstance(model.action_space, spaces.Discrete) else rollout.actions
    log_prob = before.get_distribution(rollout.observations).log_prob(actions)
    torch.testing.assert_close(log_prob, rollout.old_log_prob, rtol=1e-4, atol=1e-5)
    y = rollout.advantages.double()
    y = (y - y.mean()) / (y - y.mean()).square().mean().sqrt()
    scores = dense.score_matrix(log_prob, parameters).double()
    expected = 0.2 * dense.natural_gradient(scores, y, torch.ones(64).double(), 0.3)
    after = dict(model.policy.named_parameters())
    moved = torch.cat([(after[n] - p).flatten() for n, p in zip(actor, parameters, strict=True)])
    torch.testing.assert_close(moved.double(), expected, rtol=1e-3, atol=1e-5)
    for n, p in before.named_parameters():
        assert n in actor or (after[n] != p).any()


def test_it_learns() -> None:
    model = RAT("MlpPolicy", make_vec_env("CartPole-v1", 8, seed=0), n_steps=128, seed=0, device="cpu")
    model.learn(20_000)
    assert np.mean([episode["r"] for episode in model.ep_info_buffer]) > 100  # by chance 22


def test_a_model_that_was_saved_goes_on_as_one_that_was_not(tmp_path: Path) -> None:
    model = model_of("box")
    model.learn(640)
    assert model.step_size.value != 0.2
    model.save(tmp_path / "model")
    loaded = RAT.load(tmp_path / "model", model.env, device="cpu")
    observations = np.random.default_rng(0).normal(size=(5, 3))
    chosen, again = (m.predict(observations, deterministic=True)[0] for m in (model, loaded))
    assert (chosen == again).all()
    assert loaded.step_size.value == model.step_size.value
    for goes_on in (model, loaded):
        goes_on.set_random_seed(1)
        goes_on.env.seed(1)
        goes_on._last_obs = None
        goes_on.learn(64, reset_num_timesteps=False)
    for name, p in model.policy.named_parameters():
        assert (p == dict(loaded.policy.named_parameters())[name]).all(), name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"damping": -1.0}, "damping must be greater than 0, got -1"),
        ({"batch_size": 48}, "batch_size must divide n_steps * n_envs = 64, got 48"),
        ({"critic_batch_size": 1}, "critic_batch_size must be at least 2, got 1"),
        ({"kl_band": (0.02, 0.01)}, "kl_band must be at least 0.02, got 0.01"),
        ({"n_epochs": 0}, "n_epochs must be at least 1, got 0"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadConfig, match=f"^{message.replace('*', '.')}$"):
        model_of("box", **options)


def test_shared_layers_are_refused_and_parted_ones_are_not() -> None:
    images = spaces.Box(0, 255, (36, 36, 1), np.uint8), spaces.Discrete(2)
    env = make_vec_env(lambda: Noise(*images), 2)
    with pytest.raises(BadConfig, match="actor and critic share layers: policy_kwargs="):
        RAT("CnnPolicy", env, **SHORT)
    model = RAT("CnnPolicy", env, policy_kwargs={"share_features_extractor": False}, **SHORT)
    before = [p.clone() for p in model.policy.pi_features_extractor.parameters()]
    model.learn(64)
    after = list(model.policy.pi_features_extractor.parameters())
    assert all((a != b).any() for a, b in zip(after, before, strict=True))
