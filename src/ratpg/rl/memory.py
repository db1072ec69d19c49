"""What a recurrent policy remembers of the episodes under way, from rollout to rollout."""

import torch
from torch import Tensor


class Memory:
    """Recurrent states of ``N`` environments, each right for the observation that comes next.

    Args:
        num_envs: ``N``.
        size: numbers in a state.
        device: where they are kept.

    Attributes:
        actor, critic: ``[N, size]``; where both share their layers, the critic reads the actor's.
    """

    def __init__(self, num_envs: int, size: int, device: torch.device):
        self.actor, self.critic = (torch.zeros(num_envs, size, device=device) for _ in range(2))

    def state_dict(self) -> dict[str, Tensor]:
        return {"actor": self.actor, "critic": self.critic}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.actor.copy_(state["actor"])
        self.critic.copy_(state["critic"])
