"""Policies and rollouts at several points of one training run, kept so that an interrupted experiment goes on."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ratpg.rl.batch import make_batch
from ratpg.rl.policy import ActorCritic
from ratpg.rl.rollout import collect
from ratpg.rl.spec import PolicySpec
from ratpg.training.checkpoint import FILE
from ratpg.training.config import TrainConfig
from ratpg.training.trainer import Trainer
from report import COMMIT

ROOT = Path("runs/snapshots")


@dataclass(frozen=True)
class Snapshot:
    """A policy, and ``N`` transitions which it has made.

    Attributes:
        timesteps: of the training so far.
        policy: float32.
        observations: normalised, ``[N, d]``.
        actions: ``[N, A]``.
        advantages: GAE, centred and divided by their root mean square, ``[N]``.
    """

    timesteps: int
    policy: ActorCritic
    observations: Tensor
    actions: Tensor
    advantages: Tensor


def take(trainer: Trainer, num_steps: int) -> Snapshot:
    """Collects ``num_steps`` steps of each environment, from which nothing is learnt."""
    rollout = collect(trainer.policy, trainer.envs, num_steps, trainer.generator)
    rewards = rollout.rewards
    if trainer.reward_normalizer is not None:
        rewards = trainer.reward_normalizer(rewards, rollout.done, rollout.valid)
    batch = make_batch(trainer.policy, rollout, rewards, trainer.config.gamma, trainer.config.gae_lambda)
    return Snapshot(
        trainer.timesteps, trainer.policy, batch.observations, batch.actions, batch.normalized_advantages.clone()
    )


def snapshots(config: TrainConfig, points: Sequence[int]) -> Iterator[Snapshot]:
    """The snapshots at these timesteps; what an earlier call with this config and commit left in ``runs/`` is not
    made again."""
    values = json.dumps(config.to_dict() | {"run_dir": None, "commit": COMMIT}, sort_keys=True)
    directory = ROOT / hashlib.sha256(values.encode()).hexdigest()[:12]
    config = replace(config, run_dir=directory)
    for point in points:
        path = directory / f"{point}.pt"
        if not path.exists():
            trainer = Trainer.resume(directory)[0] if (directory / FILE).exists() else Trainer.start(config)
            while trainer.timesteps < point:
                trainer.iterate()
            trainer.save()
            found = take(trainer, config.num_steps)
            trainer.envs.close()
            tensors = {name: getattr(found, name) for name in ("observations", "actions", "advantages")}
            state = {"timesteps": found.timesteps, "spec": vars(found.policy.spec), "policy": found.policy.state_dict()}
            temporary = path.with_suffix(".tmp")
            torch.save(state | tensors, temporary)
            temporary.replace(path)
        yield _load(path)


def _load(path: Path) -> Snapshot:
    state = torch.load(path)
    policy = ActorCritic(PolicySpec.from_dict(state["spec"]))
    policy.load_state_dict(state["policy"])
    return Snapshot(state["timesteps"], policy, state["observations"], state["actions"], state["advantages"])
