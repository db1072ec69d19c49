"""Named settings of each algorithm.

``paper``    the authors' released protocol, for reproducing them.
``procgen``  images of Procgen, for RAT and PPO: the paper's protocol as a third party matched it (see below).
``atari``    four stacked frames of an Atari game, for RAT and PPO.
``default``  the best we know. RAT: a natural-gradient step is worth fresh data, so small rollouts, few steps on
             each, and the step set by the KL divergence instead of a norm clip; a first standard deviation at which
             few samples are clipped by the bounds. PPO: CleanRL's settings for continuous control (Huang et al. 2022,
             JMLR 23(274)), its 2048 steps a rollout taken by eight environments instead of one, with RAT's networks,
             first standard deviation, discount and bounds of actions, and mini-batches of 256 instead of 64
             (``results/default_search``). TRPO: one step a rollout, small tanh networks and twenty passes of the
             critic, as RL Baselines3 Zoo has it, a larger step, and RAT's discount and bounds of actions (3011 instead
             of 1972 on Hopper). ACKTR: RAT's too, its damping, and an entropy weight that stays (2694 instead of 790 on
             Ant). Diag: a first step that is no longer than the KL band allows. Sophia: a third of the learning rate
             that it was given first.
"""

from dataclasses import replace
from typing import Any

from ratpg.algorithms import (
    CONFIGS,
    ACKTRConfig,
    Config,
    DiagConfig,
    PPOConfig,
    RATConfig,
    SophiaConfig,
    TRPOConfig,
)
from ratpg.algorithms.checks import BadConfig

PAPER_RUN = {
    "num_envs": 32,
    "num_steps": 256,
    "stagger": False,
    "gamma": 0.999,
    "gae_lambda": 0.95,
    "normalize_rewards": False,
    "action_bounds": "tanh",
    "initial_log_std": 0.0,
    "initial_weights": "pytorch",
}
"""The authors' rollouts and networks, the same for every algorithm."""

PROCGEN_RUN = {
    "num_envs": 16,
    "num_steps": 256,
    "stagger": False,
    "gamma": 0.999,
    "gae_lambda": 0.95,
    "normalize_rewards": False,
    "network": "impala",
    "shared": True,
    "env_options": ("num_levels=10", "start_level=0"),
}
"""Rollouts, network and levels of the paper's Procgen experiment (github.com/zyh1999/mujoco-research)."""

ATARI_RUN = {
    "num_envs": 8,
    "num_steps": 128,
    "gamma": 0.99,
    "gae_lambda": 0.95,
    "network": "nature-cnn",
    "shared": True,
}
"""Rollouts of PPO's Atari experiments (Schulman et al. 2017), with rewards scaled instead of clipped."""

# algorithm -> preset -> (the run's values, the algorithm's config)
PRESETS: dict[str, dict[str, tuple[dict[str, Any], Config]]] = {
    "rat": {
        "default": ({}, RATConfig()),
        "paper": (
            PAPER_RUN,
            RATConfig(
                damping=0.1,
                step_size=0.05,
                step_size_bounds=(1e-4, 0.05),
                kl_band=(0.004, 0.016),
                anneal_kl_band=False,
                weight_decay=0.0,
                max_step_norm=0.5,
                entropy_coefficient=0.0,
                epochs=4,
                minibatches=8,
                critic_epochs=4,
                critic_minibatches=8,
            ),
        ),
        "procgen": (
            PROCGEN_RUN,
            RATConfig(
                damping=0.5,
                step_size=0.5,
                step_size_bounds=(1e-4, 0.5),
                kl_band=(0.004, 0.016),
                anneal_kl_band=False,
                max_step_norm=0.5,
                entropy_coefficient=0.01,
                epochs=4,
                minibatches=8,
            ),
        ),
        "atari": (
            ATARI_RUN,
            RATConfig(damping=0.5, step_size=0.5, max_step_norm=0.5, entropy_coefficient=0.01, value_coefficient=0.5),
        ),
    },
    "ppo": {
        "default": ({}, PPOConfig()),
        "paper": (PAPER_RUN, PPOConfig(anneal_learning_rate=False, epochs=4, minibatches=8)),
        # Adam's step and the entropy's weight are Procgen's authors' (Cobbe et al. 2020, arXiv 1912.01588).
        "procgen": (
            PROCGEN_RUN,
            PPOConfig(
                learning_rate=5e-4, anneal_learning_rate=False, entropy_coefficient=0.01, epochs=4, minibatches=8
            ),
        ),
        "atari": (
            ATARI_RUN,
            PPOConfig(learning_rate=2.5e-4, clip_range=0.1, entropy_coefficient=0.01, epochs=4, minibatches=4),
        ),
    },
    "trpo": {
        "default": ({"hidden": (64, 64), "activation": "tanh"}, TRPOConfig()),
        # FVP + CG as the paper has it: RAT's mini-batches and steps, the direction by conjugate gradients.
        "paper": (
            PAPER_RUN,
            TRPOConfig(
                target_kl=None,
                cg_iterations=10,
                max_step_norm=0.5,
                epochs=4,
                minibatches=8,
                critic_epochs=4,
                critic_minibatches=8,
            ),
        ),
    },
    "acktr": {
        "default": ({}, ACKTRConfig()),
        "paper": (
            PAPER_RUN,
            ACKTRConfig(
                max_step_size=0.25,
                kl_clip=0.001,
                anneal_step_size=False,
                damping=0.01,
                factor_decay=0.95,
                entropy_coefficient=0.0,
                epochs=4,
                minibatches=8,
            ),
        ),
    },
    "sophia": {
        "default": ({"gamma": 0.99, "gae_lambda": 0.95, "action_bounds": "clip"}, SophiaConfig()),
        "paper": (PAPER_RUN, SophiaConfig(anneal_learning_rate=False, epochs=4, minibatches=8)),
    },
    "diag": {
        "default": ({}, DiagConfig()),
        "paper": (
            PAPER_RUN,
            DiagConfig(
                damping=0.1,
                step_size=0.05,
                step_size_bounds=(1e-4, 0.05),
                kl_band=(0.004, 0.016),
                max_step_norm=0.5,
                epochs=4,
                minibatches=8,
            ),
        ),
    },
}


TASKS: dict[str, dict[str, Any]] = {
    "Ant": {"gae_lambda": 0.9},
    "HalfCheetah": {"num_envs": 32, "num_steps": 64},
    "Swimmer": {"gamma": 0.999, "gae_lambda": 0.99, "initial_log_std": 0.0},
}
"""What the default preset of every algorithm has otherwise for some tasks: environment id up to its version -> values.
Ant's eight noisy actions want advantages of less variance; HalfCheetah, whose episodes never end early, more of them at
a time (``results/default_search``); of Swimmer the whole episode of 1000 steps counts, its strokes are slow, and it
takes large actions to find them."""

ALGORITHM_TASKS: dict[str, dict[str, dict[str, Any]]] = {
    "rat": {"Ant": {"kl_band": (0.015, 0.06)}, "Swimmer": {"entropy_coefficient": 0.1}}
}
"""What the default preset of an algorithm has otherwise for some tasks: algorithm -> task -> values. The KL
divergence is a sum over the action's dimensions, of which Ant has eight; Swimmer, which finds one stroke early, goes on
to better ones if its actions stay wide (``results/default_search``)."""

SHARED: dict[str, dict[str, Any]] = {
    "rat": {"value_advantage": "residual", "critic_step_size": 0.2, "minibatches": 4},
}
"""What the default preset of an algorithm has otherwise where layers are shared. RAT's step is the natural gradient of
both losses, which that of the paper's pseudo-advantage is not (``results/shared_critic``); a sample has two rows then,
so that mini-batches are half as large."""


CHOSEN_ON = 1_000_000
"""Steps of the runs on which the default presets were chosen. RAT's differs where there are more
(``results/mujoco_long``): its weight decay is that much smaller, as it shrinks what the Fisher matrix knows little of
by a factor a step, over ten million the whole network; and the noise of actions has a bound."""
MIN_LOG_STD = -2.5
"""That bound, the least log standard deviation, about as low as it falls within `CHOSEN_ON` steps."""


def preset(algo: str, name: str, env: str, shared: bool = False, total_timesteps: int = CHOSEN_ON) -> dict[str, Any]:
    """Keyword arguments of `TrainConfig` for an algorithm, a preset and an environment.

    Args:
        algo, name, env: which.
        shared: whether actor and critic share their layers.
        total_timesteps: environment steps of the run.

    Raises:
        BadConfig: naming what there is.
    """
    if algo not in CONFIGS:
        raise BadConfig(f"algo must be one of {', '.join(CONFIGS)}, got '{algo}'")
    if name not in PRESETS[algo]:
        raise BadConfig(f"preset of {algo} must be one of {', '.join(PRESETS[algo])}, got '{name}'")
    run, algorithm = PRESETS[algo][name]
    values: dict[str, Any] = {}
    if name == "default":
        task = env.rpartition(":")[2].rpartition("-v")[0]  # without a module to import
        values = TASKS.get(task, {})
        algorithm = replace(algorithm, **ALGORITHM_TASKS.get(algo, {}).get(task, {}))
        if shared:
            algorithm = replace(algorithm, **SHARED.get(algo, {}))
        if isinstance(algorithm, RATConfig) and total_timesteps > CHOSEN_ON:
            algorithm = replace(algorithm, weight_decay=algorithm.weight_decay * (CHOSEN_ON / total_timesteps))
            values = values | {"min_log_std": MIN_LOG_STD}
    return {"env": env, "algo": algo, "preset": name, "algorithm": algorithm, **run, **values}
