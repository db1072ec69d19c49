"""A small policy and a batch of made-up experience, in float64."""

import dataclasses

import torch
from torch import nn

from ratpg.rl.batch import Batch
from ratpg.rl.policy import ActorCritic, PolicySpec

ROWS, D, A = 24, 5, 2
GAUSSIAN = PolicySpec((D,), (A,), 0, 0, (), (), hidden=(6,), activation="tanh")
CENSORED = dataclasses.replace(GAUSSIAN, action_low=(-1.0,) * A, action_high=(1.0,) * A, action_bounds="censor")
SHARED = dataclasses.replace(GAUSSIAN, shared=True)
DISCRETE = PolicySpec((D,), (), 3, 0, (), (), hidden=(6,), activation="tanh")


def make_policy(spec: PolicySpec) -> ActorCritic:
    torch.manual_seed(0)
    policy = ActorCritic(spec).double()
    for parameter in policy.actor.parameters():
        nn.init.normal_(parameter, std=0.3)
    return policy


def make_batch(policy: ActorCritic, seed: int = 1) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    observations = torch.randn(ROWS, D, generator=generator, dtype=torch.float64)
    distribution = policy.actor(observations).detach()
    actions = distribution.sample(policy.draw_noise((ROWS,), generator).double())
    advantages, values = torch.randn(2, ROWS, generator=generator, dtype=torch.float64)
    log_prob = distribution.log_prob(actions)
    return Batch(observations, actions, distribution, log_prob, 3 * advantages + 1, values + advantages)
