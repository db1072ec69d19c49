"""Named settings of each algorithm.

``paper``    the authors' released protocol, for reproducing them.
``default``  the best we know. RAT: a natural-gradient step is worth fresh data, so small rollouts, few steps on
             each, and the step set by the KL divergence instead of a norm clip; a first standard deviation at which
             few samples are clipped by the bounds. PPO: CleanRL's settings for continuous control (Huang et al. 2022,
             JMLR 23(274)), its 2048 steps a rollout taken by eight environments instead of one. TRPO: one step a
             rollout, ten passes of the critic, as RL Baselines3 Zoo has it.
"""

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
    "gamma": 0.999,
    "gae_lambda": 0.95,
    "normalize_rewards": False,
    "action_bounds": "tanh",
    "initial_log_std": 0.0,
    "initial_weights": "pytorch",
}
"""The authors' rollouts and networks, the same for every algorithm."""

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
    },
    "ppo": {
        "default": (
            {
                "gamma": 0.99,
                "gae_lambda": 0.95,
                "action_bounds": "clip",
                "hidden": (64, 64),
                "activation": "tanh",
                "initial_log_std": 0.0,
            },
            PPOConfig(),
        ),
        "paper": (PAPER_RUN, PPOConfig(anneal_learning_rate=False, epochs=4, minibatches=8)),
    },
    "trpo": {
        "default": (
            {"gamma": 0.99, "gae_lambda": 0.95, "action_bounds": "clip", "initial_log_std": 0.0},
            TRPOConfig(),
        ),
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
        "default": ({"gamma": 0.99, "gae_lambda": 0.95, "action_bounds": "clip"}, ACKTRConfig()),
        "paper": (PAPER_RUN, ACKTRConfig(anneal_step_size=False, epochs=4, minibatches=8)),
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


TASKS: dict[str, dict[str, Any]] = {"Ant": {"gae_lambda": 0.9}, "Swimmer": {"gamma": 0.9999}}
"""What the default preset of every algorithm has otherwise for some tasks: environment id up to its version -> values.
Ant's eight noisy actions want advantages of less variance; of Swimmer the whole episode of 1000 steps counts, as in
RL Baselines3 Zoo."""


def preset(algo: str, name: str, env: str) -> dict[str, Any]:
    """Keyword arguments of `TrainConfig` for an algorithm, a preset and an environment.

    Raises:
        BadConfig: naming what there is.
    """
    if algo not in CONFIGS:
        raise BadConfig(f"algo must be one of {', '.join(CONFIGS)}, got '{algo}'")
    if name not in PRESETS[algo]:
        raise BadConfig(f"preset of {algo} must be one of {', '.join(PRESETS[algo])}, got '{name}'")
    run, algorithm = PRESETS[algo][name]
    task = TASKS.get(env.rpartition("-v")[0], {}) if name == "default" else {}
    return {"env": env, "algo": algo, "preset": name, "algorithm": algorithm, **run, **task}
