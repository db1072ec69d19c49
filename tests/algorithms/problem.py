"""A small policy and a batch of made-up experience, in float64."""

import dataclasses

import torch
from torch import nn

from ratpg.rl.batch import Batch
from ratpg.rl.networks.recurrent import Sequences
from ratpg.rl.policy import ActorCritic
from ratpg.rl.sequence_batch import SequenceBatch
from ratpg.rl.spec import PolicySpec

ROWS, D, A, ENVS = 24, 5, 2, 4
GAUSSIAN = PolicySpec((D,), (A,), hidden=(6,), activation="tanh")
CENSORED = dataclasses.replace(GAUSSIAN, action_low=(-1.0,) * A, action_high=(1.0,) * A, action_bounds="censor")
SHARED = dataclasses.replace(GAUSSIAN, shared=True)
RECURRENT = dataclasses.replace(GAUSSIAN, lstm=3)
SHARED_RECURRENT = dataclasses.replace(RECURRENT, shared=True)
BINARY = PolicySpec((D,), (2,), (2, 2), (0, 0), hidden=(6,), activation="tanh")
SEVERAL = PolicySpec((D,), (2,), (3, 2), (0, 0), hidden=(6,), activation="tanh")
DISCRETE = PolicySpec((D,), (), (3,), (0,), hidden=(6,), activation="tanh")
SHARED_DISCRETE = dataclasses.replace(DISCRETE, shared=True)


def make_policy(spec: PolicySpec) -> ActorCritic:
    torch.manual_seed(0)
    policy = ActorCritic(spec).double()
    for parameter in policy.actor.parameters():
        nn.init.normal_(parameter, std=0.3)
    return policy


def make_sequences(seed: int) -> Sequences:
    """Six steps of four environments, five of which only reset."""
    generator = torch.Generator().manual_seed(seed)
    kept = torch.ones(6, ENVS, dtype=torch.bool)
    kept.view(-1)[torch.tensor([1, 7, 10, 14, 23])] = False
    states = torch.randn(2, ENVS, 2 * 3, generator=generator, dtype=torch.float64)
    return Sequences(
        inputs=torch.randn(6, ENVS, D, generator=generator, dtype=torch.float64),
        fresh=torch.cat([torch.zeros(1, ENVS, dtype=torch.bool), ~kept[:-1]]),
        states={"actor": states[0], "critic": states[1]},
        kept=kept,
    )


def make_batch(policy: ActorCritic, seed: int = 1) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    if policy.spec.lstm:
        sequences = make_sequences(seed)
        rows = int(sequences.kept.sum())
        distribution = policy.actor(sequences).detach()
        actions = distribution.sample(policy.draw_noise((rows,), generator).double())
        advantages, values = torch.randn(2, rows, generator=generator, dtype=torch.float64)
        log_prob = distribution.log_prob(actions)
        return SequenceBatch(sequences, actions, distribution, log_prob, 3 * advantages + 1, values + advantages)
    observations = torch.randn(ROWS, D, generator=generator, dtype=torch.float64)
    distribution = policy.actor(observations).detach()
    actions = distribution.sample(policy.draw_noise((ROWS,), generator).double())
    advantages, values = torch.randn(2, ROWS, generator=generator, dtype=torch.float64)
    log_prob = distribution.log_prob(actions)
    return Batch(observations, actions, distribution, log_prob, 3 * advantages + 1, values + advantages)
