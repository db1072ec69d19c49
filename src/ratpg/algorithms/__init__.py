"""RAT and its baselines: a frozen config and one `update` each."""

from typing import Any, Protocol

import torch

from ratpg.algorithms.acktr import ACKTR, ACKTRConfig
from ratpg.algorithms.ppo import PPO, PPOConfig
from ratpg.algorithms.rat import RAT, RATConfig
from ratpg.algorithms.trpo import TRPO, TRPOConfig
from ratpg.rl.batch import Batch
from ratpg.rl.policy import ActorCritic


class Algorithm(Protocol):
    """What the training loop needs of an algorithm."""

    def update(self, batch: Batch, remaining: float) -> dict[str, float]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


Config = RATConfig | PPOConfig | TRPOConfig | ACKTRConfig
CONFIGS: dict[str, type[Config]] = {"rat": RATConfig, "ppo": PPOConfig, "trpo": TRPOConfig, "acktr": ACKTRConfig}


def make_algorithm(policy: ActorCritic, config: Config, generator: torch.Generator) -> Algorithm:
    """The algorithm that this config belongs to."""
    if isinstance(config, PPOConfig):
        return PPO(policy, config, generator)
    if isinstance(config, TRPOConfig):
        return TRPO(policy, config, generator)
    if isinstance(config, ACKTRConfig):
        return ACKTR(policy, config, generator)
    return RAT(policy, config, generator)
