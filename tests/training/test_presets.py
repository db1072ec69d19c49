"""The two presets are what the design says they are."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from ratpg.algorithms import CONFIGS, RATConfig
from ratpg.algorithms.checks import BadConfig
from ratpg.rl.normalize import RewardNormalizer
from ratpg.rl.policy import ActorCritic
from ratpg.rl.spec import PolicySpec
from ratpg.training.config import TrainConfig
from ratpg.training.presets import PRESETS, preset


def run_of(name: str) -> TrainConfig[RATConfig]:
    return TrainConfig(**preset("rat", name, "Hopper-v4"))


def test_the_paper_preset_is_the_authors_protocol() -> None:
    run = run_of("paper")
    assert (run.num_envs, run.num_steps, run.gamma, run.gae_lambda) == (32, 256, 0.999, 0.95)
    assert (run.hidden, run.activation, run.initial_log_std) == ((256, 256), "relu", 0.0)
    assert run.initial_weights == "pytorch"
    assert (run.action_bounds, run.normalize_rewards) == ("tanh", False)
    rat = run.algorithm
    assert (rat.epochs, rat.minibatches) == (4, 8)
    assert run.num_envs * run.num_steps // rat.minibatches == 1024
    assert (rat.damping, rat.step_size, rat.max_step_norm) == (0.1, 0.05, 0.5)
    assert (rat.entropy_coefficient, rat.weight_decay, rat.anneal_kl_band) == (0.0, 0.0, False)
    assert (rat.step_size_bounds, rat.kl_band, rat.ratio_bounds) == ((1e-4, 0.05), (0.004, 0.016), (0.1, 10.0))
    assert (rat.critic_epochs, rat.critic_minibatches) == (4, 8)
    assert (rat.critic_learning_rate, rat.critic_max_grad_norm) == (1e-3, 5.0)


def test_the_default_preset_is_the_defaults_of_the_configs() -> None:
    run = run_of("default")
    assert run.algorithm == RATConfig()
    assert run == TrainConfig(env="Hopper-v4", algorithm=RATConfig())
    assert (run.num_envs * run.num_steps) // run.algorithm.minibatches == 1024
    assert run.algorithm.max_step_norm is None
    assert (run.action_bounds, run.normalize_rewards) == ("censor", True)


def test_both_presets_clip_observations_at_5_and_scaled_rewards_at_10_and_share_popart() -> None:
    spec = PolicySpec((3,), (2,))
    assert ActorCritic(spec).value_head.beta == 0.99999
    never = torch.zeros(2000, 1, dtype=torch.bool)
    assert ActorCritic(spec).normalize(torch.full((1, 3), 1e3)).tolist() == [[5.0, 5.0, 5.0]]
    rewards = torch.zeros(2000, 1)
    rewards[-1] = 1e3
    assert RewardNormalizer(1, 0.99)(rewards, never, ~never).max().item() == 10.0


@pytest.mark.parametrize("algo", CONFIGS)
def test_every_algorithm_has_a_default_preset_that_is_valid(algo: str) -> None:
    assert "default" in PRESETS[algo]
    for name in PRESETS[algo]:
        run = TrainConfig(**preset(algo, name, "Hopper-v4"))
        assert (run.algo, run.preset) == (algo, name)
        assert isinstance(run.algorithm, CONFIGS[algo])


@pytest.mark.parametrize("algo", CONFIGS)
@pytest.mark.parametrize(
    ("env", "own", "of_rat"),
    [
        ("Swimmer-v4", {"gamma": 0.999, "gae_lambda": 0.99, "initial_log_std": 0.0}, {"entropy_coefficient": 0.1}),
        ("Swimmer-v5", {"gamma": 0.999, "gae_lambda": 0.99, "initial_log_std": 0.0}, {"entropy_coefficient": 0.1}),
        ("Ant-v4", {"gae_lambda": 0.9}, {"kl_band": (0.015, 0.06)}),
        ("HalfCheetah-v4", {"num_envs": 32, "num_steps": 64}, {}),
        ("SwimmerX-v4", {}, {}),
        ("gymnasium:Ant-v4", {"gae_lambda": 0.9}, {"kl_band": (0.015, 0.06)}),
    ],
)
def test_some_tasks_have_values_of_their_own_by_default(
    algo: str, env: str, own: dict[str, float], of_rat: dict[str, Any]
) -> None:
    common = preset(algo, "default", "Hopper-v4")
    algorithm = replace(common["algorithm"], **of_rat) if algo == "rat" else common["algorithm"]
    assert preset(algo, "default", env) == common | {"env": env, "algorithm": algorithm} | own
    assert preset(algo, "paper", env) == preset(algo, "paper", "Hopper-v4") | {"env": env}


def test_rats_critic_has_rows_of_its_own_by_default_where_layers_are_shared() -> None:
    shared = preset("rat", "default", "Hopper-v4", shared=True)["algorithm"]
    assert shared == replace(RATConfig(), value_advantage="residual", critic_step_size=0.2, minibatches=4)
    assert preset("rat", "paper", "Hopper-v4", shared=True) == preset("rat", "paper", "Hopper-v4")
    assert preset("ppo", "default", "Hopper-v4", shared=True) == preset("ppo", "default", "Hopper-v4")


@pytest.mark.parametrize(("steps", "weight_decay"), [(200, 1e-3), (1_000_000, 1e-3), (10_000_000, 1e-4)])
def test_rats_weight_decay_is_less_where_there_are_more_steps(steps: int, weight_decay: float) -> None:
    run = TrainConfig(**preset("rat", "default", "Hopper-v4", total_timesteps=steps))
    assert run.algorithm == replace(RATConfig(), weight_decay=weight_decay)
    assert run.min_log_std == (-2.5 if steps > 1_000_000 else None)
    for other in ("paper", "procgen", "atari"):
        assert preset("rat", other, "Hopper-v4", total_timesteps=steps) == preset("rat", other, "Hopper-v4")
    assert preset("acktr", "default", "Hopper-v4", total_timesteps=steps) == preset("acktr", "default", "Hopper-v4")


def test_an_unknown_algorithm_or_preset_is_refused_with_those_there_are() -> None:
    with pytest.raises(BadConfig, match="algo must be one of rat.*'rot'"):
        preset("rot", "default", "Hopper-v4")
    with pytest.raises(BadConfig, match="default, paper.*'papers'"):
        preset("rat", "papers", "Hopper-v4")
