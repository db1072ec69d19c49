"""The only training loop: rollout, advantage, update, log, checkpoint."""

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ratpg.algorithms import make_algorithm
from ratpg.algorithms.checks import BadConfig
from ratpg.rl.batch import Batch, make_batch
from ratpg.rl.envs import VecEnv, make_vec
from ratpg.rl.episodes import EpisodeTracker
from ratpg.rl.normalize import RewardNormalizer
from ratpg.rl.policy import ActorCritic, PolicySpec
from ratpg.rl.rollout import NonFiniteExperience, Rollout, collect
from ratpg.training import checkpoint
from ratpg.training.config import TrainConfig
from ratpg.training.logging import METRICS, MetricsWriter

CONFIG = "config.json"


class Trainer:
    """Trains one policy in one run folder.

    Args:
        config: the run.
        env_seed: seed of the environments, where it is not the run's.

    Raises:
        UnknownEnvironment, UnsupportedSpace: from the environment.
    """

    def __init__(self, config: TrainConfig, env_seed: int | None = None):
        self.config = config
        try:
            torch.zeros((), device=config.device)
        except (RuntimeError, AssertionError) as error:
            raise BadConfig(f"device '{config.device}' cannot be used: {str(error).splitlines()[0]}") from error
        self.envs: VecEnv = make_vec(
            config.env,
            config.num_envs,
            seed=config.seed if env_seed is None else env_seed,
            backend=config.backend,
            num_threads=config.threads,
        )
        spec = PolicySpec.from_spaces(
            self.envs.observation_space,
            self.envs.action_space,
            action_bounds=config.action_bounds,
            hidden=config.hidden,
            activation=config.activation,
            initial_log_std=config.initial_log_std,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.policy = ActorCritic(spec).to(config.device)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.algorithm = make_algorithm(self.policy, config.algorithm, self.generator)
        self.reward_normalizer = (
            RewardNormalizer(config.num_envs, config.gamma).to(config.device) if config.normalize_rewards else None
        )
        self.episodes = EpisodeTracker(config.num_envs)
        self.timesteps = 0
        self.wall_time = 0.0

    @staticmethod
    def start(config: TrainConfig) -> "Trainer":
        """A new run in an empty folder.

        Raises:
            BadConfig: where the folder already holds a run.
        """
        directory = config.directory
        taken = [name for name in (CONFIG, METRICS, checkpoint.FILE) if (directory / name).exists()]
        if taken:
            raise BadConfig(
                f"{directory} already holds a run: continue it with `ratpg resume {directory}`, or choose another "
                "--run-dir"
            )
        trainer = Trainer(config)
        directory.mkdir(parents=True, exist_ok=True)
        trainer.save()  # so that a run killed in its first minute resumes too
        (directory / CONFIG).write_text(json.dumps(config.to_dict(), indent=2) + "\n")
        return trainer

    @staticmethod
    def resume(directory: Path, total_timesteps: int | None = None) -> tuple["Trainer", bool]:
        """Continues a run from its checkpoint.

        Returns:
            The trainer, and whether the environments continue exactly where they were (Gymnasium) or start fresh
            episodes (EnvPool, which cannot save a state).

        Raises:
            BadCheckpoint: where there is no readable checkpoint.
        """
        state = checkpoint.load(directory)
        config = TrainConfig.from_dict(json.loads(state["config"]))
        config = dataclasses.replace(
            config, run_dir=directory, total_timesteps=total_timesteps or config.total_timesteps
        )
        # Where the environments start anew, they should not replay the episodes that the run began with.
        trainer = Trainer(config, env_seed=config.seed + state["timesteps"])
        return trainer, trainer._load_state_dict(state)

    def run(
        self,
        on_row: Callable[[dict[str, float]], None] = lambda row: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Trains until the configured number of timesteps.

        Args:
            on_row: called with each rollout's row of metrics.
            should_stop: asked after each rollout; True checkpoints and returns.

        Returns:
            Whether the run is complete.
        """
        writer = MetricsWriter(self.config.directory, keep_until=self.timesteps)
        saved = time.monotonic()
        try:
            while self.timesteps < self.config.total_timesteps:
                before = self._sampling_state()
                try:
                    row = self._iterate()
                except NonFiniteExperience:
                    self.save(before)  # all that was learnt, and the state from which the bad rollout was sampled
                    raise
                writer.write(row)
                on_row(row)
                if should_stop():
                    break
                if time.monotonic() - saved >= self.config.checkpoint_interval:
                    self.save()
                    saved = time.monotonic()
            self.save()
        finally:
            writer.close()
            self.envs.close()
        return self.timesteps >= self.config.total_timesteps

    def _iterate(self) -> dict[str, float]:
        start = time.perf_counter()
        # Acting for a few environments is tiny work, and idle torch threads would spin beside the simulator's.
        torch.set_num_threads(1)
        rollout = collect(self.policy, self.envs, self.config.num_steps, self.generator)
        torch.set_num_threads(self.config.threads)
        self.episodes.update(rollout)
        metrics = self.algorithm.update(self._batch(rollout))
        # After the update, so that the policy that was updated is the one that acted.
        self.policy.normalizer.update(rollout.observations[:-1].flatten(2)[rollout.valid])
        steps = self.config.num_envs * self.config.num_steps
        elapsed = time.perf_counter() - start
        self.timesteps += steps
        self.wall_time += elapsed
        return {
            "timesteps": self.timesteps,
            "wall_time": self.wall_time,
            "episodes": self.episodes.finished,
            "episode_return_mean": self.episodes.return_mean(),
            "episode_length_mean": self.episodes.length_mean(),
            "sps": steps / elapsed,
            **metrics,
        }

    def _batch(self, rollout: Rollout) -> Batch:
        rewards = rollout.rewards
        if self.reward_normalizer is not None:
            rewards = self.reward_normalizer(rewards, rollout.done, rollout.valid)
        return make_batch(self.policy, rollout, rewards, self.config.gamma, self.config.gae_lambda)

    def _sampling_state(self) -> dict[str, Any]:
        """What `collect` changes."""
        return {"generator": self.generator.get_state(), "envs": self.envs.state_dict()}

    def save(self, sampling_state: dict[str, Any] | None = None) -> None:
        """Writes a checkpoint of everything the run needs to continue."""
        checkpoint.save(
            self.config.directory,
            {
                "config": json.dumps(self.config.to_dict()),
                "spec": dataclasses.asdict(self.policy.spec),
                "policy": self.policy.state_dict(),
                "algorithm": self.algorithm.state_dict(),
                "reward_normalizer": self.reward_normalizer and self.reward_normalizer.state_dict(),
                "episodes": self.episodes.state_dict(),
                "timesteps": self.timesteps,
                "wall_time": self.wall_time,
                **(sampling_state or self._sampling_state()),
            },
        )

    def _load_state_dict(self, state: dict[str, Any]) -> bool:
        self.policy.load_state_dict(state["policy"])
        self.algorithm.load_state_dict(state["algorithm"])
        if self.reward_normalizer is not None:
            self.reward_normalizer.load_state_dict(state["reward_normalizer"])
        self.episodes.load_state_dict(state["episodes"])
        self.generator.set_state(state["generator"].cpu())
        self.timesteps = state["timesteps"]
        self.wall_time = state["wall_time"]
        if state["envs"] is not None:
            self.envs.load_state_dict(state["envs"])
            return True
        self.episodes.forget_unfinished()
        if self.reward_normalizer is not None:
            self.reward_normalizer.returns.zero_()
        return False


def load_policy(directory: Path) -> tuple[ActorCritic, TrainConfig]:
    """The policy of a run's checkpoint, with its normaliser, and the run's config.

    Raises:
        BadCheckpoint: where there is no readable checkpoint.
    """
    state = checkpoint.load(directory)
    policy = ActorCritic(PolicySpec.from_dict(state["spec"]))
    policy.load_state_dict(state["policy"])
    return policy, TrainConfig.from_dict(json.loads(state["config"]))
