"""RAT in Stable-Baselines3: its steps are the natural gradient's; it is saved and goes on as others there are."""

import copy
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

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


def model_of(name: str, **options: Any) -> RAT:
    env = make_vec_env(lambda: Noise(*SPACES[name]), 2, seed=0)
    policy = "MultiInputPolicy" if name == "dict" else "MlpPolicy"
    return RAT(policy, env, seed=0, **SHORT | {"policy_kwargs": {"net_arch": [8, 8]}} | options)


def recorded(model: RAT, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, Any, dict[str, Tensor]]]:
    """Fills a list with each step of the actor: the policy before it, the mini-batch, the parameters after it."""
    steps = []
    take = RAT._step

    def step(self: RAT, batch: Any, *rest: Any) -> Tensor:
        before = type(self.policy)(**self.policy._get_constructor_parameters())
        before.load_state_dict(self.policy.state_dict())
        before.set_training_mode(False)
        norm = take(self, batch, *rest)
        steps.append((before, batch, {n: p.detach().clone() for n, p in self.policy.named_parameters()}))
        return norm

    monkeypatch.setattr(RAT, "_step", step)
    return steps


@pytest.mark.parametrize("name", SPACES)
def test_the_actor_takes_damped_natural_gradient_steps(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(name, damping=0.3, ent_coef=0.1, batch_size=30, n_epochs=2, kl_band=(1.0, 2.0))
    steps = recorded(model, monkeypatch)
    model.learn(64)
    assert len(steps) == 4  # of a rollout of 64 four rows are left out
    ratios: list[Tensor] = []
    for before, batch, after in steps:
        actor = [n for n, _ in before.named_parameters() if "value" not in n]
        parameters = [dict(before.named_parameters())[n] for n in actor]
        actions = batch.actions.long().flatten() if isinstance(model.action_space, spaces.Discrete) else batch.actions
        log_prob = before.get_distribution(batch.observations).log_prob(actions)
        now = log_prob.detach().double()
        ratio = (now - batch.old_log_prob).exp().clamp(0.1, 10)
        y = batch.advantages.double()
        y = (y - y.mean()) / (y - y.mean()).square().mean().sqrt() - 0.1 * (now - now.mean())
        ratios.append(ratio)
        scores = dense.score_matrix(log_prob, parameters).double()
        expected = 0.2 * dense.natural_gradient(scores, y, ratio, 0.3)
        moved = torch.cat([(after[n] - p).flatten() for n, p in zip(actor, parameters, strict=True)])
        torch.testing.assert_close(moved.double(), expected, rtol=1e-3, atol=2e-5)
        assert all((after[n] == p).all() for n, p in before.named_parameters() if n not in actor)
    assert max(float((ratio - 1).abs().max()) for ratio in ratios) > 0.01


def test_the_critic_is_fitted_by_the_policys_optimizer() -> None:
    options = {"optimizer_class": torch.optim.SGD, "optimizer_kwargs": {"momentum": 0.5}, "net_arch": [8]}
    model = model_of("box", policy_kwargs=options, learning_rate=lambda left: 0.01 * left, max_grad_norm=0.1)
    critic = [p for n, p in model.policy.named_parameters() if "value" in n]
    before = torch.cat([p.detach().flatten() for p in critic])
    model.learn(128)
    group = model.policy.optimizer.param_groups[0]
    assert (group["momentum"], group["lr"]) == (0.5, 0.0)  # of the last update, when nothing of the run is left
    assert [id(p) for p in group["params"]] == [id(p) for p in critic]
    moved = (torch.cat([p.detach().flatten() for p in critic]) - before).norm()
    # Of the two updates' steps the first two move, by at most 0.005 of a gradient of 0.1, and half of the one before.
    assert 0 < moved <= 0.005 * (0.1 + 0.15) * (1 + 1e-4)


def test_the_critic_passes_over_the_rollout(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("box", critic_epochs=3, critic_batch_size=40)
    sizes = []
    fit = RAT._fit
    monkeypatch.setattr(RAT, "_fit", lambda self, batch: sizes.append(len(batch.returns)) or fit(self, batch))
    model.learn(64)
    assert sizes == [40, 24] * 3


def test_what_is_logged_is_of_the_whole_rollout() -> None:
    model = model_of("discrete", kl_band=(1.0, 2.0))
    model.learn(64)
    logged = model.logger.name_to_value
    (rollout,) = model.rollout_buffer.get()
    with torch.no_grad():
        distribution = model.policy.get_distribution(rollout.observations)
    log_ratio = distribution.log_prob(rollout.actions.long().flatten()) - rollout.old_log_prob
    assert logged["train/approx_kl"] == pytest.approx(float((log_ratio.exp() - 1 - log_ratio).mean()), rel=1e-3)
    assert logged["train/entropy_loss"] == pytest.approx(-float(distribution.entropy().mean()), rel=1e-4)
    assert logged["train/step_size"] == 0.2
    assert model._adapted == (0.2, pytest.approx(0.3))


def test_passes_end_where_the_kl_divergence_leaves_its_band(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("box", n_epochs=50, kl_band=(0.001, 0.01))
    steps = recorded(model, monkeypatch)
    model.learn(64)
    assert 1 < len(steps) < 50
    assert 0.01 < model.logger.name_to_value["train/approx_kl"] < 0.5
    assert model._adapted[1] == pytest.approx(0.2 / 1.5)


class Meddling(BaseCallback):
    """Changes the policy after each rollout, so that it is another than the one that acted."""

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        with torch.no_grad():
            self.model.policy.action_net.bias.add_(1.0)


def test_a_first_mini_batch_beyond_the_band_leaves_the_actor_as_it_is() -> None:
    model = model_of("box", n_epochs=3)
    before = {n: p.detach().clone() for n, p in model.policy.named_parameters()}
    model.learn(64, callback=Meddling())
    after = dict(model.policy.named_parameters())
    meddled = before["action_net.bias"] + 1.0
    torch.testing.assert_close(after["action_net.bias"], meddled, rtol=0, atol=0)
    assert all((after[n] == p).all() for n, p in before.items() if "value" not in n and n != "action_net.bias")
    assert all((after[n] != p).any() for n, p in before.items() if "value" in n)  # the critic learns
    assert model.logger.name_to_value["train/step_norm"] == 0.0
    assert model._adapted[1] == pytest.approx(0.2 / 1.5)


def test_it_learns() -> None:
    model = RAT("MlpPolicy", make_vec_env("CartPole-v1", 8, seed=0), n_steps=128, seed=0, device="cpu")
    model.learn(20_000)
    assert np.mean([episode["r"] for episode in model.ep_info_buffer]) > 100  # by chance 22


def test_a_model_that_was_saved_goes_on_as_one_that_was_not(tmp_path: Path) -> None:
    model = model_of("box")
    model.learn(640)
    assert model._adapted[1] != 0.2
    model.save(tmp_path / "model")
    loaded = RAT.load(tmp_path / "model", model.env, device="cpu")
    observations = np.random.default_rng(0).normal(size=(5, 3))
    chosen, again = (m.predict(observations, deterministic=True)[0] for m in (model, loaded))
    assert (chosen == again).all()
    assert list(loaded._adapted) == list(model._adapted)
    for goes_on in (model, loaded):
        goes_on.set_random_seed(1)
        goes_on.env.seed(1)
        goes_on._last_obs = None
        goes_on.learn(64, reset_num_timesteps=False)
    for name, p in model.policy.named_parameters():
        assert (p == dict(loaded.policy.named_parameters())[name]).all(), name


def test_a_model_is_loaded_for_fewer_environments_and_with_other_hyperparameters(tmp_path: Path) -> None:
    model = model_of("box")
    model.learn(640)
    model.save(tmp_path / "model")
    one = make_vec_env(lambda: Noise(*SPACES["box"]), 1, seed=0)
    loaded = RAT.load(tmp_path / "model", one, device="cpu", step_size=0.05, kl_band=(1e-9, 5.0), critic_epochs=2)
    loaded.learn(64)
    assert loaded.logger.name_to_value["train/step_size"] == 0.05
    assert loaded._adapted == (0.05, 0.05)
    with pytest.raises(BadConfig, match="damping must be greater than 0, got 0"):
        RAT.load(tmp_path / "model", one, damping=0.0)


def test_a_damping_that_is_changed_is_that_of_the_next_update() -> None:
    model = model_of("box")
    model.learn(64)
    model.damping = 3.0
    model.learn(64)
    assert model.transform.damping == 3.0


def test_a_policy_that_is_put_in_is_trained(tmp_path: Path) -> None:
    model = model_of("box")
    model.policy.save(tmp_path / "policy")
    model.policy = ActorCriticPolicy.load(tmp_path / "policy", device="cpu")
    before = {n: p.detach().clone() for n, p in model.policy.named_parameters()}
    model.learn(64)
    assert all((p != before[n]).any() for n, p in model.policy.named_parameters())


class Hardwired(ActorCriticPolicy):
    """Parts its extractors by itself, so that no argument of its constructor says so."""

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options, share_features_extractor=False)


class Wide(BaseFeaturesExtractor):
    """Has parameters, so that it matters whose it is."""

    def __init__(self, space: spaces.Box):
        super().__init__(space, 4)
        self.layer = nn.Linear(3, 4)

    def forward(self, observations: Tensor) -> Tensor:
        return self.layer(observations)


@pytest.mark.parametrize("kind", ["MlpPolicy", Hardwired])
def test_a_policy_with_parted_extractors_is_loaded_as_it_was_saved(kind: Any, tmp_path: Path) -> None:
    options = {"features_extractor_class": Wide} | ({} if kind is Hardwired else {"share_features_extractor": False})
    new = RAT(kind, make_vec_env(lambda: Noise(*SPACES["box"]), 2), **SHORT, policy_kwargs=options, seed=0)
    new.save(tmp_path / "model")
    observations = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    for model in (new, RAT.load(tmp_path / "model", new.env, device="cpu")):
        model.learn(64)
        model.policy.save(tmp_path / "policy")
        for policy in (copy.deepcopy(model.policy), type(model.policy).load(tmp_path / "policy", device="cpu")):
            assert not policy.share_features_extractor
            chosen, again = (p.predict(observations, deterministic=True)[0] for p in (model.policy, policy))
            assert (chosen == again).all()
            assert torch.equal(*(p.predict_values(torch.as_tensor(observations)) for p in (model.policy, policy)))


@pytest.mark.parametrize("dtype", [np.int64, np.uint8])
def test_integers_in_a_box_are_refused(dtype: Any) -> None:
    env = make_vec_env(lambda: Noise(NUMBERS, spaces.Box(0, 3, (2,), dtype)), 2)
    message = f"truncates the actions of a Box of {np.dtype(dtype)}: declare the Box as float32 and round"
    with pytest.raises(BadConfig, match=message):
        RAT("MlpPolicy", env, **SHORT)


def test_layers_that_act_otherwise_in_training_do_not_mix_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    class Extractor(BaseFeaturesExtractor):
        def __init__(self, space: spaces.Box):
            super().__init__(space, 4)
            self.layers = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))

        def forward(self, observations: Tensor) -> Tensor:
            return self.layers(observations)

    model = model_of("box", policy_kwargs={"features_extractor_class": Extractor, "share_features_extractor": False})
    steps = recorded(model, monkeypatch)
    model.learn(64)
    ((before, batch, _),) = steps
    log_prob = before.get_distribution(batch.observations).log_prob(batch.actions)
    torch.testing.assert_close(log_prob, batch.old_log_prob, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"damping": -1.0}, "damping must be greater than 0, got -1"),
        ({"batch_size": 1}, "batch_size must be at least 2, got 1"),
        ({"critic_batch_size": 0}, "critic_batch_size must be at least 1, got 0"),
        ({"step_size": 5.0}, "step_size must be at most 2, got 5"),
        ({"max_grad_norm": 0.0}, "max_grad_norm must be greater than 0, got 0"),
        ({"ent_coef": -1.0}, "ent_coef must be at least 0, got -1"),
        ({"kl_band": (0.02, 0.01)}, "kl_band must be at least 0.02, got 0.01"),
        ({"n_epochs": 0}, "n_epochs must be at least 1, got 0"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadConfig, match=f"^{message}$"):
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


def test_what_is_neither_the_actors_nor_the_critics_is_named() -> None:
    class Policy(ActorCriticPolicy):
        def __init__(self, *arguments: Any, **options: Any):
            super().__init__(*arguments, **options)
            self.skip = nn.Linear(3, 1)

    env = make_vec_env(lambda: Noise(*SPACES["box"]), 2)
    with pytest.raises(BadConfig, match=r"neither the actor's nor the critic's: skip.weight, skip.bias$"):
        RAT(Policy, env, **SHORT)
