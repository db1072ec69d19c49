"""RAT and its baselines: a frozen config and one `update` each."""

from typing import Any, Protocol

import torch

from ratpg.algorithms.acktr import ACKTR, ACKTRConfig
from ratpg.algorithms.critic import Critic
from ratpg.algorithms.diag import Diag, DiagConfig
from ratpg.algorithms.ppo import PPO, PPOConfig
from ratpg.algorithms.rat import RAT, RATConfig
from ratpg.algorithms.sophia import Sophia, SophiaConfig
from ratpg.algorithms.trpo import TRPO, TRPOConfig
from ratpg.rl.batch import Batch
from ratpg.rl.policy import ActorCritic


class Algorithm(Protocol):
    """What the training loop needs of an algorithm.

    Attributes:
        measures: whether its metrics have a ``natural_cosine``: that of its first step with the exact damped natural
            gradient of the same mini-batch, at its own damping.
        critic: one that is fitted apart from the actor, and may still be at it when `update` has returned: to be
            finished before values are asked for, or anything is saved.
    """

    measures: bool
    critic: Critic | None

    def update(self, batch: Batch, remaining: float) -> dict[str, float]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


Config = RATConfig | PPOConfig | TRPOConfig | ACKTRConfig | SophiaConfig | DiagConfig
CONFIGS: dict[str, type[Config]] = {
    "rat": RATConfig,
    "ppo": PPOConfig,
    "trpo": TRPOConfig,
    "acktr": ACKTRConfig,
    "sophia": SophiaConfig,
    "diag": DiagConfig,
}
_ALGORITHMS: dict[type[Config], Any] = {
    RATConfig: RAT,
    PPOConfig: PPO,
    TRPOConfig: TRPO,
    ACKTRConfig: ACKTR,
    SophiaConfig: Sophia,
    DiagConfig: Diag,
}


def make_algorithm(policy: ActorCritic, config: Config, generator: torch.Generator) -> Algorithm:
    """The algorithm that this config belongs to."""
    algorithm: Algorithm = _ALGORITHMS[type(config)](policy, config, generator)
    return algorithm
