"""The only training loop: rollout, advantage, update, log, checkpoint."""

import dataclasses
import json
import time
import warnings
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from ratpg.algorithms import make_algorithm
from ratpg.algorithms.checks import BadConfig
from ratpg.rl.batch import Batch, make_batch
from ratpg.rl.envs import VecEnv, make_vec
from ratpg.rl.envs.faults import EnvironmentFailed, closing_whatever
from ratpg.rl.envs.options import parse_options
from ratpg.rl.episodes import EpisodeTracker
from ratpg.rl.normalize import RewardNormalizer
from ratpg.rl.policy import ActorCritic
from ratpg.rl.rollout import NonFiniteExperience, Rollout, collect
from ratpg.rl.sequence_batch import make_sequence_batch
from ratpg.training import checkpoint
from ratpg.training.alignment import AlignmentProbe
from ratpg.training.checkpoint import first_line
from ratpg.training.config import CONFIG, TrainConfig
from ratpg.training.diverged import TrainingDiverged, diverging, require_finite
from ratpg.training.fields import like
from ratpg.training.files import written_whole
from ratpg.training.global_generators import GlobalGenerators
from ratpg.training.logging import METRICS, MetricsWriter
from ratpg.training.saved_run import SavedRun, intact, load_policy, not_finite_in, resume_command
from ratpg.training.writer_lock import only_writer

__all__ = ["Trainer", "TrainingDiverged", "load_policy"]


class Trainer:
    """Trains one policy in one run folder.

    Args:
        config: the run.
        env_seed: seed of the environments, where it is not the run's.

    Attributes:
        directory: the run's folder, whatever becomes of the working directory.

    Raises:
        UnknownEnvironment, UnsupportedSpace, EnvironmentFailed: from the environment.
    """

    def __init__(self, config: TrainConfig, env_seed: int | None = None):
        try:
            torch.zeros((), device=config.device, dtype=torch.float64).cpu()  # statistics are float64
        # Whatever torch raises for a device: one it was not built for, that is not there, or that only pretends (meta).
        except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
            raise BadConfig(f"device '{config.device}' cannot be used: {first_line(error)}") from error
        self.directory = config.directory.absolute()  # before an environment can change the working directory
        seed = config.seed if env_seed is None else env_seed
        self.global_generators = GlobalGenerators(seed)
        with self.global_generators.in_use():
            self.envs: VecEnv = make_vec(
                config.env,
                config.num_envs,
                seed=seed,
                backend=config.backend,
                num_threads=config.threads,
                options=parse_options(config.env_options),
            )
        if config.stagger:
            self.envs.stagger()
        self.config = config = dataclasses.replace(config, backend=self.envs.backend)
        spec = config.policy_spec(self.envs.observation_space, self.envs.action_space)
        torch.set_num_threads(1)  # how orthogonal weights are rounded depends on it
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.policy = ActorCritic(spec).to(config.device)
        self.memory = self.policy.new_memory(config.num_envs)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.algorithm = make_algorithm(self.policy, config.algorithm, self.generator)
        if self.algorithm.critic is not None:
            self.algorithm.critic.overlap = config.threads > 1 and self.policy.device.type == "cpu"
        self.probe = AlignmentProbe(self.policy)
        self.reward_normalizer = (
            RewardNormalizer(config.num_envs, config.gamma).to(config.device) if config.normalize_rewards else None
        )
        self.episodes = EpisodeTracker(config.num_envs)
        self.timesteps = 0
        self.wall_time = 0.0

    @staticmethod
    def start(config: TrainConfig) -> "Trainer":
        """A new run, in a folder that holds none.

        Raises:
            BadConfig: where the folder already holds a run, or another training writes into it.
        """
        trainer = Trainer(config)
        directory = trainer.directory
        directory.mkdir(parents=True, exist_ok=True)
        with only_writer(directory):
            if any((directory / name).exists() for name in (CONFIG, METRICS, checkpoint.FILE)):
                raise BadConfig(
                    f"{config.directory} already holds a run: continue it with `{resume_command(config)}`, or choose "
                    "another --run-dir"
                )
            trainer.save()  # so that a run killed in its first minute resumes too
            trainer._write_config()
        return trainer

    @staticmethod
    def resume(directory: Path, *, trust_env: bool = False, **changes: Any) -> tuple["Trainer", bool]:
        """Continues a run from its checkpoint.

        Args:
            directory: the run's folder.
            trust_env: whether its environment may import the module that it names.
            changes: fields of the config that shall be different from now on; with other ``env_options`` the
                environments start fresh episodes.

        Returns:
            The trainer, and whether the environments continue exactly where they were (Gymnasium) or start fresh
            episodes (EnvPool, which cannot save a state).

        Raises:
            BadCheckpoint: where there is no readable checkpoint.
            BadConfig: where the environment is another than the one it was trained on.
            Untrusted: as `SavedRun.require_trust`.
        """
        run = SavedRun.read(directory, complete=True)
        run.require_trust(trust_env)
        state = dict(run.state)
        config = dataclasses.replace(run.config, run_dir=directory, **changes)
        if config.env_options != run.config.env_options:
            state["envs"] = None  # whose state holds the options
        # Where the environments start anew, they should not replay the episodes that the run began with.
        trainer = Trainer(config, env_seed=config.seed + run.state["timesteps"])
        for name, found in trainer.policy.spec.differences(run.spec).items():
            raise BadConfig(
                f"the policy in {directory} was trained with {name} {getattr(run.spec, name)}, and {config.env} on "
                f"{trainer.envs.backend} has {found}"
            )
        with intact(directory):
            exact = trainer._load_state_dict(state)
        return trainer, exact

    def run(
        self,
        on_row: Callable[[dict[str, float]], None] = lambda row: None,
        should_stop: Callable[[], bool] = lambda: False,
        warn: Callable[[str], None] = warnings.warn,
    ) -> bool:
        """Trains until the configured number of timesteps.

        Args:
            on_row: called with each rollout's row of metrics.
            should_stop: asked after each rollout; True checkpoints and returns.
            warn: called with a line on what was lost and does not stop the run.

        Returns:
            Whether the run is complete.

        Raises:
            EnvironmentFailed, NonFiniteExperience: from the simulator; what was learnt before is saved.
            TrainingDiverged: where an update gave something that is not finite; the last checkpoint stays.
            OSError: where the disk is full; what fits is saved.
            BadConfig: where another training writes into the folder, or has since this one was read from it.
        """
        directory = self.directory
        with closing_whatever(self.envs, warn), only_writer(directory):
            stored = checkpoint.load(directory)
            if stored["timesteps"] != self.timesteps:
                raise BadConfig(f"another training has gone on in {directory} meanwhile: resume it again")
            if stored["config"] != self._config_text():
                self.save()  # what was asked for now holds from now on, whatever ends the run
            self._write_config()
            with closing(MetricsWriter(directory, self.timesteps, self._steps, warn)) as writer:
                self._train(writer, on_row, should_stop)
        return self.timesteps >= self.config.total_timesteps

    def _train(
        self, writer: MetricsWriter, on_row: Callable[[dict[str, float]], None], should_stop: Callable[[], bool]
    ) -> None:
        def save() -> None:
            writer.sync()  # first, for a resumed run cannot make rows again that are older than its checkpoint
            self.save()

        saved = time.monotonic()
        while self.timesteps < self.config.total_timesteps:
            try:
                row = self.iterate()
            except (EnvironmentFailed, NonFiniteExperience) as error:
                writer.sync()
                self.save(with_envs=False)  # their state leads to the same fault again
                raise type(error)(
                    f"{error}, in the rollout that began at {self.timesteps} timesteps; what was learnt before is "
                    f"saved: mend the environment and go on with: {resume_command(self.config)}"
                ) from error
            try:
                writer.write(row)
            except OSError:
                self.save()
                raise
            on_row(row)
            if should_stop():
                break
            if time.monotonic() - saved >= self.config.checkpoint_interval:
                save()
                saved = time.monotonic()
        save()

    def iterate(self) -> dict[str, float]:
        """One rollout and one update; returns the row of metrics."""
        start = time.perf_counter()
        # Acting for a few environments is tiny work, and idle torch threads would spin beside the simulator's.
        torch.set_num_threads(1)
        with self.global_generators.in_use():
            rollout = collect(self.policy, self.envs, self.config.num_steps, self.generator, self.memory)
        torch.set_num_threads(self.config.threads)
        self.finish()
        self.episodes.update(rollout)
        remaining = max(0.0, 1 - self.timesteps / self.config.total_timesteps)
        batch = self._batch(rollout)
        value_loss = float(batch.advantages.square().mean() / self.policy.value_head.std.square())
        require_finite({"value_loss": value_loss}, self.timesteps)
        with diverging(self.timesteps):
            metrics = self.algorithm.update(batch if self.algorithm.measures else self.probe.watch(batch), remaining)
        metrics.setdefault("natural_cosine", self.probe.cosine or 0.0)  # 0 where no step was taken
        require_finite(metrics, self.timesteps)
        if self.config.min_log_std is not None:
            self.policy.widen(self.config.min_log_std)
        # After the update, so that the policy that was updated is the one that acted.
        self.policy.observe(rollout.observations[:-1][rollout.valid])
        elapsed = time.perf_counter() - start
        self.timesteps += self._steps
        self.wall_time += elapsed
        return {
            "timesteps": self.timesteps,
            "wall_time": self.wall_time,
            "episodes": self.episodes.finished,
            "episode_return_mean": self.episodes.return_mean(),
            "episode_length_mean": self.episodes.length_mean(),
            "sps": self._steps / elapsed,
            "value_loss": value_loss,
            **metrics,
        }

    def finish(self) -> None:
        """Waits for the critic's fit to the last rollout, which goes on while the next one is collected.

        Raises:
            TrainingDiverged: where its loss is not finite.
        """
        if self.algorithm.critic is not None:
            with diverging(self.timesteps):
                self.algorithm.critic.finish()
            require_finite({"value_loss": self.algorithm.critic.loss}, self.timesteps)

    def _batch(self, rollout: Rollout) -> Batch:
        rewards = rollout.rewards
        if self.reward_normalizer is not None:
            rewards = self.reward_normalizer(rewards, rollout.done, rollout.valid)
        discounts = self.config.gamma, self.config.gae_lambda
        if self.memory is not None:
            return make_sequence_batch(self.policy, rollout, rewards, *discounts, self.memory)
        return make_batch(self.policy, rollout, rewards, *discounts)

    @property
    def _steps(self) -> int:
        """Timesteps of one rollout."""
        return self.config.num_envs * self.config.num_steps

    def _write_config(self) -> None:
        with written_whole(self.directory / CONFIG, sole=True) as file:
            file.write(json.dumps(self.config.to_dict(), indent=2).encode() + b"\n")

    def _config_text(self) -> str:
        return json.dumps(self.config.to_dict())

    def save(self, with_envs: bool = True) -> None:
        """Writes a checkpoint of everything the run needs to continue, with or without the environments' states.

        Raises:
            TrainingDiverged: as `finish`, and where the policy is not finite; the checkpoint before stays.
            OSError: where the disk is full.
        """
        self.finish()
        state = {
            "config": self._config_text(),
            "spec": dataclasses.asdict(self.policy.spec),
            "policy": self.policy.state_dict(),
            "algorithm": self.algorithm.state_dict(),
            "reward_normalizer": self.reward_normalizer and self.reward_normalizer.state_dict(),
            "episodes": self.episodes.state_dict(),
            "memory": self.memory and self.memory.state_dict(),
            "timesteps": self.timesteps,
            "wall_time": self.wall_time,
            "generator": self.generator.get_state(),
            "global_generators": self.global_generators.state_dict(),
            "backend": self.envs.backend,
            "envs": self.envs.state_dict() if with_envs else None,
        }
        # A loss is that of before a step, so that the last step of all shows in the parameters alone.
        if broken := not_finite_in(state):
            raise TrainingDiverged(self.timesteps, f"{broken} not finite")
        checkpoint.save(self.directory, state)

    def _load_state_dict(self, state: dict[str, Any]) -> bool:
        self.policy.load_state_dict(state["policy"])
        like(state["algorithm"], self.algorithm.state_dict(), "algorithm")
        self.algorithm.load_state_dict(state["algorithm"])
        if self.reward_normalizer is not None:
            self.reward_normalizer.load_state_dict(state["reward_normalizer"])
        self.episodes.load_state_dict(state["episodes"])
        self.generator.set_state(state["generator"])
        self.global_generators.load_state_dict(state["global_generators"])
        self.timesteps = state["timesteps"]
        self.wall_time = state["wall_time"]
        saved, fresh = state["envs"], self.envs.state_dict()
        if saved is not None and fresh is not None and state["backend"] == self.envs.backend:
            unlike = {"envs"} if saved["stagger"] else {"envs", "stagger"}
            like(saved, {name: value for name, value in fresh.items() if name not in unlike}, "envs")
            self.envs.load_state_dict(saved)
            if self.memory is not None:
                like(state["memory"], self.memory.state_dict(), "memory")
                self.memory.load_state_dict(state["memory"])
            return True
        self.episodes.forget_unfinished()
        if self.reward_normalizer is not None:
            self.reward_normalizer.returns.zero_()
        return False
