"""A rollout of a recurrent policy made ready for an update, whose mini-batches are whole sequences."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from ratpg.rl.advantage import gae
from ratpg.rl.batch import Batch
from ratpg.rl.distributions import Distribution
from ratpg.rl.memory import Memory
from ratpg.rl.networks.recurrent import Reader, RecurrentBody, Sequences
from ratpg.rl.policy import ActorCritic
from ratpg.rl.rollout import Rollout


@dataclass(frozen=True)
class SequenceBatch(Batch):
    """A `Batch` whose observations are `Sequences`; its rows are those that are kept, step by step.

    A mini-batch is the rollout of some of the environments: one forward pass from the states that the rollout began
    with, of which each step is a sample. The states are those of the policy that acted, also in later passes
    (Kapturowski et al. 2019, R2D2, call them stored states).
    """

    observations: Sequences

    def rows(self, part: Tensor) -> Tensor:
        """The rows of some environments."""
        kept = self.observations.kept
        positions = (kept.flatten().cumsum(0) - 1).view(kept.shape)
        return positions[:, part][kept[:, part]]

    def first(self, rows: int) -> Self:
        """So many rows at most: some environments, and of one that has more its first steps."""
        steps, envs = self.observations.kept.shape
        device = self.advantages.device
        some = self[torch.arange(min(envs, max(1, rows // steps)), device=device)]
        observations = some.observations.until(rows)
        early = torch.arange(int(observations.kept.sum()), device=device)
        return type(self)(
            observations,
            some.actions[early],
            some.distribution[early],
            some.log_prob[early],
            some.advantages[early],
            some.returns[early],
        )

    def parts(self, count: int, generator: torch.Generator) -> list[Tensor]:
        """Environments in random order, in parts that are equal to within one, each with some experience."""
        kept = self.observations.kept
        order = torch.randperm(kept.shape[1], generator=generator).to(kept.device)
        order = order[kept.any(0)[order]]
        return list(order.tensor_split(min(count, len(order))))


@torch.no_grad()
def make_sequence_batch(
    policy: ActorCritic, rollout: Rollout, rewards: Tensor, gamma: float, lam: float, memory: Memory
) -> SequenceBatch:
    """As `ratpg.rl.batch.make_batch`, for a recurrent policy.

    Args:
        policy: the policy that collected the rollout, unchanged since.
        rollout: ``[T, N]`` steps.
        rewards: what to learn from, ``[T, N]``.
        gamma: discount γ.
        lam: GAE's λ.
        memory: of the environments; the critic's is moved on by the rollout.
    """
    assert rollout.state is not None
    everything = policy.normalize(rollout.observations)  # [T + 1, N, ...]
    fresh = torch.cat([torch.zeros_like(rollout.valid[:1]), ~rollout.valid])  # a reset is followed by a new episode
    body, start = policy.critic[0], rollout.state if policy.spec.shared else memory.critic
    assert isinstance(body, RecurrentBody)
    features, state = body.run(everything[:-1], fresh[:-1], start)
    state = state.masked_fill(fresh[-1, :, None], 0.0)
    last, _ = body.step(everything[-1], state)
    head = policy.critic[1:]
    values = policy.value_head.denormalize(head(torch.cat([features, last[None]]).flatten(0, 1))).view(fresh.shape)
    advantages = gae(rewards, values, rollout.terminated, rollout.truncated, rollout.valid, gamma, lam)

    states: dict[Reader, Tensor] = {"actor": rollout.state, "critic": start.clone()}
    sequences = Sequences(everything[:-1], fresh[:-1], states, rollout.valid)
    memory.critic.copy_(state)
    distribution: Distribution = policy.actor(sequences).detach()
    actions = rollout.actions[rollout.valid]
    return SequenceBatch(
        observations=sequences,
        actions=actions,
        distribution=distribution,
        log_prob=distribution.log_prob(actions),
        advantages=advantages[rollout.valid],
        returns=(advantages + values[:-1])[rollout.valid],
    )
