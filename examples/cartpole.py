"""A whole agent in one file: the natural policy gradient by RAT, in a loop of one's own.

    python examples/cartpole.py [--env Acrobot-v1]

For Gymnasium's environments with discrete actions and plain observations. A rollout is worth one step of the actor,
along the natural gradient and as long as the KL divergence allows, and ten passes of the critic; nothing of this
library is used but `AdvantageTransform`. Balances CartPole within 100,000 steps (500 of 500), in half a minute.
"""

import argparse
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import torch
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from torch import Tensor, nn

from ratpg import AdvantageTransform

ENVS, STEPS = 8, 256
GAMMA, GAE_LAMBDA = 0.99, 0.95
DAMPING, TARGET_KL = 0.1, 0.01


@dataclass
class Rollout:
    """What was seen and done, time by environment; where ``valid`` is false an environment only reset."""

    observations: Tensor
    actions: Tensor
    advantages: Tensor
    returns: Tensor
    valid: Tensor


def network(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, outputs))


class Agent:
    """Actor, critic, and the environments they live in."""

    def __init__(self, env: str, seed: int):
        torch.manual_seed(seed)
        self.envs = RecordEpisodeStatistics(gym.make_vec(env, ENVS, vectorization_mode="sync"), 20)
        self.observation, _ = self.envs.reset(seed=seed)
        self.resetting = np.zeros(ENVS, dtype=bool)
        (width,), choices = self.envs.single_observation_space.shape, self.envs.single_action_space.n
        self.actor, self.critic = network(width, choices), network(width, 1)
        self.transform = AdvantageTransform(self.actor, DAMPING)
        self.adam = torch.optim.Adam(self.critic.parameters(), lr=1e-3)

    def value(self, observations: Tensor) -> Tensor:
        return self.critic(observations).squeeze(-1)

    def log_prob(self, observations: Tensor, actions: Tensor) -> Tensor:
        return self.actor(observations).log_softmax(-1).gather(-1, actions[..., None]).squeeze(-1)

    @torch.no_grad()
    def collect(self) -> Rollout:
        """``STEPS`` steps of each environment, and their advantages (GAE: Schulman et al. 2016, arXiv 1506.02438)."""
        observations, actions, rewards, terminated, ended, valid = [], [], [], [], [], []
        for _ in range(STEPS):
            now = torch.tensor(self.observation, dtype=torch.float32)
            action = torch.multinomial(self.actor(now).softmax(-1), 1).squeeze(-1)
            # After an episode's end the next step resets: it ignores the action and pays nothing.
            valid.append(torch.tensor(~self.resetting))
            self.observation, reward, terminations, truncations, _ = self.envs.step(action.numpy())
            self.resetting = terminations | truncations
            observations.append(now)
            actions.append(action)
            rewards.append(torch.tensor(reward, dtype=torch.float32))
            terminated.append(torch.tensor(terminations))
            ended.append(torch.tensor(self.resetting))
        seen = torch.stack([*observations, torch.tensor(self.observation, dtype=torch.float32)])
        values = self.value(seen)
        advantages, following = torch.zeros(STEPS, ENVS), torch.zeros(ENVS)
        for t in reversed(range(STEPS)):
            delta = rewards[t] + GAMMA * values[t + 1] * ~terminated[t] - values[t]
            following = delta + GAMMA * GAE_LAMBDA * following * ~ended[t]
            advantages[t] = following
        return Rollout(seen[:-1], torch.stack(actions), advantages, advantages + values[:-1], torch.stack(valid))

    def update(self, rollout: Rollout) -> None:
        """One natural-gradient step of the actor, ten passes of the critic."""
        valid = rollout.valid
        observations, actions = rollout.observations[valid], rollout.actions[valid]
        advantages, returns = rollout.advantages[valid], rollout.returns[valid]
        with self.transform.record():
            log_prob = self.log_prob(observations, actions)
        step = self.transform(log_prob, (advantages - advantages.mean()) / advantages.std())
        size = float((TARGET_KL / step.predicted_kl.clamp(min=1e-12)).sqrt())
        (-size * (log_prob * step.advantage).mean()).backward()  # the natural gradient, by ordinary backpropagation
        with torch.no_grad():
            for parameter in self.actor.parameters():
                parameter -= parameter.grad
                parameter.grad = None
        for _ in range(10):
            for rows in torch.randperm(len(returns)).split(256):
                loss = (self.value(observations[rows]) - returns[rows]).square().mean()
                self.adam.zero_grad()
                loss.backward()
                self.adam.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--env", default="CartPole-v1")
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    agent = Agent(arguments.env, arguments.seed)
    for steps in range(ENVS * STEPS, arguments.steps + ENVS * STEPS, ENVS * STEPS):
        agent.update(agent.collect())
        returns = agent.envs.return_queue
        if returns:
            print(f"{steps} steps: return {np.mean(returns):.1f} (mean of the last {len(returns)} episodes)")


if __name__ == "__main__":
    main()
