"""Stable-Baselines3's PPO and SB3-contrib's TRPO (extra ``bench``), set up as our presets are."""

from collections.abc import Callable
from typing import Any

import torch
from sb3_contrib import TRPO
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecNormalize
from torch import nn

from ratpg.training.config import TrainConfig

VECTORS: dict[str, type[VecEnv]] = {"in one process": DummyVecEnv, "in subprocesses": SubprocVecEnv}


def sb3_training(algo: str, vector: str, threads: int, config: TrainConfig[Any]) -> Callable[[], int]:
    """One rollout and update at each call, which returns the environment steps it took.

    Args:
        algo: ``"ppo"`` or ``"trpo"``.
        vector: how the environments are stepped, a key of `VECTORS`.
        threads: PyTorch's.
        config: whose environments, rollouts, networks and mini-batches to take.
    """
    envs = make_vec_env(config.env, config.num_envs, seed=config.seed, vec_env_cls=VECTORS[vector])
    envs = VecNormalize(envs, norm_reward=config.normalize_rewards, clip_obs=5.0, gamma=config.gamma)
    steps = config.num_envs * config.num_steps
    widths = list(config.hidden)
    common: dict[str, Any] = {
        "n_steps": config.num_steps,
        "batch_size": steps // config.algorithm.minibatches,
        "gamma": config.gamma,
        "gae_lambda": config.gae_lambda,
        "policy_kwargs": {"net_arch": {"pi": widths, "vf": widths}, "activation_fn": nn.ReLU},
        "device": "cpu",
        "seed": config.seed,
    }
    if algo == "ppo":
        model = PPO("MlpPolicy", envs, n_epochs=config.algorithm.epochs, **common)
    else:
        # One conjugate-gradient step on the whole rollout, which is TRPO's way; its critic has the same passes.
        model = TRPO("MlpPolicy", envs, n_critic_updates=config.algorithm.epochs, **common)

    def iterate() -> int:
        torch.set_num_threads(threads)
        model.learn(steps, reset_num_timesteps=False)
        return steps

    return iterate
