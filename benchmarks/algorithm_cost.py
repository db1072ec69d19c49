"""Milliseconds a mini-batch's update takes with each algorithm, actor and critic together, and the paper's figures."""

import torch

from ratpg.algorithms import CONFIGS, Config, make_algorithm
from ratpg.rl.batch import Batch
from ratpg.rl.policy import ActorCritic
from ratpg.rl.spec import PolicySpec
from ratpg.training.presets import preset
from report import Row
from timing import interleaved
from update_problem import SHAPES

MINIBATCH = 1024
ENVS = ("HalfCheetah", "Ant", "Humanoid")
PAPER = {
    "rat": (9.8, 10.0, 18.2),
    "ppo": (3.1, 3.2, 3.2),
    "trpo": (19.9, 20.0, 19.8),
    "acktr": (5.6, 5.6, 6.6),
    "diag": (3.9, 4.0, 5.7),
}
"""The paper's milliseconds on the same tasks, on a GPU it does not name; from notes of the paper, not checked against
it. It calls ``trpo`` FVP+CG, ``acktr`` KFAC, and ``diag`` Sophia."""


class Update:
    """An algorithm and a made-up rollout for it.

    Args:
        config: of the algorithm.
        env: whose observation and action sizes to take.
        minibatch: rows of a mini-batch of the actor.
        device: where the update runs.
    """

    def __init__(self, config: Config, env: str, minibatch: int, device: str = "cpu"):
        torch.manual_seed(0)
        d_obs, d_action = SHAPES[env]
        bounds = (-1.0,) * d_action, (1.0,) * d_action
        spec = PolicySpec((d_obs,), (d_action,), (), (), *bounds, action_bounds="tanh")
        policy, generator = ActorCritic(spec).to(device), torch.Generator().manual_seed(0)
        self.minibatches = config.epochs * config.minibatches
        rows = minibatch * config.minibatches
        observations = torch.randn(rows, d_obs).to(device)
        distribution = policy.actor(observations).detach()
        actions = distribution.sample(policy.draw_noise((rows,), generator))
        advantages, values = torch.randn(2, rows).to(device)
        log_prob = distribution.log_prob(actions)
        self.batch = Batch(observations, actions, distribution, log_prob, advantages, values + advantages)
        self.algorithm = make_algorithm(policy, config, generator)

    def __call__(self) -> None:
        self.algorithm.update(self.batch, 1.0)


def measure(repeats: int, device: str) -> list[Row]:
    """One row an algorithm, one column an environment's shapes; all take turns. Beside them the paper's figures.

    An update ends with figures for the log, for which the host waits, so that its time is the device's too.
    """
    milliseconds: dict[str, Row] = {algo: {"algorithm": algo} for algo in CONFIGS}
    for env in ENVS:
        configs = {algo: preset(algo, "paper", f"{env}-v4")["algorithm"] for algo in CONFIGS}
        updates = {algo: Update(config, env, MINIBATCH, device) for algo, config in configs.items()}
        seconds = interleaved(list(updates.values()), repeats)
        for (algo, update), time in zip(updates.items(), seconds, strict=True):
            milliseconds[algo][env] = round(1e3 * time / update.minibatches, 1 if device == "cpu" else 2)
    for algo, row in milliseconds.items():
        row |= {f"{env}, paper": ms for env, ms in zip(ENVS, PAPER.get(algo, ("–",) * len(ENVS)), strict=True)}
    return list(milliseconds.values())
