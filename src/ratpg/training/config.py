"""What defines a run. Everything here is a command-line flag of ``ratpg train``."""

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

import gymnasium as gym
import tyro

from ratpg.algorithms import CONFIGS
from ratpg.algorithms.checks import BadConfig, require
from ratpg.rl.envs import Backend
from ratpg.rl.envs.options import parse_options
from ratpg.rl.networks.mlp import ACTIVATIONS, InitialWeights
from ratpg.rl.spec import ActionBounds, Network, PolicySpec

C = TypeVar("C")
WIDEST = 2**24
"""The most units a layer may have; more do not fit into any machine's memory."""
CONFIG = "config.json"
"""The file that shows a run's config to people."""


def _available_cores() -> int:
    """Cores this process may use, which in a container are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class TrainConfig(Generic[C]):
    """One training run."""

    algorithm: Annotated[C, tyro.conf.arg(name="")]
    """Hyperparameters of the algorithm."""
    env: str
    """Environment id, such as Hopper-v4."""
    algo: str = "rat"
    """Algorithm."""
    preset: str = "default"
    """Source of every value not given: "default" (the best known), "paper" (the authors' protocol), or of rat and ppo
    "procgen" and "atari"."""
    seed: int = 0
    """Seed of everything: parameters, environments, noise, mini-batches."""
    total_timesteps: int = 1_000_000
    """Environment steps, all environments together and those counted in which one only resets; the run ends after the
    rollout that reaches them."""
    run_dir: Path | None = None
    """Where the run writes; runs/ENV-ALGO-PRESET-sSEED unless given."""
    backend: Backend = "auto"
    """Simulator: envpool (fast), gymnasium (any registered id; MuJoCo and classic control resume to the bit), or auto
    (EnvPool if it can)."""
    env_options: tuple[str, ...] = ()
    """Options of the environment, each name=value, such as num_levels=10 of Procgen; a preset's others stay."""
    num_envs: int = 8
    """Environments stepped side by side."""
    num_steps: int = 256
    """Steps of each environment in a rollout."""
    stagger: bool = True
    """Cut each environment's first episode at another length, so that episodes which last until the time limit do not
    all end at once."""
    threads: int = dataclasses.field(default_factory=lambda: min(_available_cores(), 8))
    """Threads for the simulator and for the update."""
    device: str = "cpu"
    """Torch device of the networks."""
    checkpoint_interval: float = 60.0
    """Seconds between checkpoints; 0 writes one after every rollout."""
    gamma: float = 0.9925
    """Discount."""
    gae_lambda: float = 0.95
    """GAE's lambda."""
    normalize_rewards: bool = True
    """Divide rewards by the running standard deviation of the discounted return and clip them to +-10."""
    action_bounds: ActionBounds = "censor"
    """How an unbounded sample becomes an action within the environment's bounds: clip, censor (clip, and count what
    lies beyond a bound as the bound) or tanh."""
    network: Network | Literal["auto"] = "auto"
    """Layers of actor and critic: mlp; nature-cnn or impala for images; auto for nature-cnn where observations are
    images, else mlp."""
    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers of an MLP."""
    shared: bool = False
    """Let actor and critic be two heads of the same layers, instead of separate networks."""
    lstm: int | None = None
    """Width of an LSTM behind these layers, for tasks that ask for memory; None for none. Mini-batches are then the
    rollouts of some of the environments."""
    activation: str = "relu"
    """Activation of an MLP: relu or tanh."""
    initial_log_std: float = -0.5
    """First log standard deviation of continuous actions."""
    min_log_std: float | None = None
    """Least log standard deviation, to which each update is brought back; None for no bound. Of actions with less noise
    little is learnt, and the Fisher matrix of so narrow a Gaussian is nearly singular."""
    initial_weights: InitialWeights = "orthogonal"
    """First weights of an MLP and of the actor's head: orthogonal, or as pytorch draws them."""

    def __post_init__(self) -> None:
        for name in ("seed", "checkpoint_interval"):
            require(name, getattr(self, name), at_least=0)
        require("seed", self.seed, at_most=2**63 - 1)
        require("num_steps", self.num_steps, at_least=2)  # one step can be all resets: nothing to learn from
        for name in ("total_timesteps", "num_envs", "threads"):
            require(name, getattr(self, name), at_least=1)
        require("threads", self.threads, at_most=4096)
        require("num_envs", self.num_envs, at_most=2**20)
        require("num_steps", self.num_steps, at_most=2**50)
        for name in ("gamma", "gae_lambda"):
            require(name, getattr(self, name), at_least=0, at_most=1)
        parse_options(self.env_options)
        require("lstm", self.lstm, at_least=1, at_most=WIDEST)
        require("initial_log_std", self.initial_log_std, at_least=-20, at_most=5)
        require("min_log_std", self.min_log_std, at_least=-20)
        if self.min_log_std is not None and self.min_log_std > self.initial_log_std:
            raise BadConfig(
                f"min_log_std must be at most initial_log_std {self.initial_log_std:g}, got {self.min_log_std:g}: "
                "lower it, or lift it by --min-log-std None"
            )
        if self.activation not in ACTIVATIONS:
            raise BadConfig(f"activation must be one of {', '.join(ACTIVATIONS)}, got '{self.activation}'")
        if not self.hidden or min(self.hidden) < 1:
            raise BadConfig(f"hidden must name at least one width >= 1, got {self.hidden}")
        require("hidden", max(self.hidden), at_most=WIDEST)
        size = self.num_envs * self.num_steps
        for name, count in vars(self.algorithm).items():
            if self.shared and name.startswith("critic_"):  # of a critic with a network of its own
                continue
            if name.endswith("minibatches") and size % count:
                raise BadConfig(
                    f"{name} {count} does not divide the rollout of num_envs {self.num_envs} x "
                    f"num_steps {self.num_steps} = {size} steps"
                )
            if name.endswith("minibatches") and self.lstm and count > self.num_envs:
                raise BadConfig(f"{name} must be at most num_envs {self.num_envs} with an LSTM, got {count}")

    @property
    def directory(self) -> Path:
        return self.run_dir or Path("runs") / f"{self.env}-{self.algo}-{self.preset}-s{self.seed}".replace("/", "_")

    def policy_spec(self, observation_space: gym.Space, action_space: gym.Space) -> PolicySpec:
        """The policy for an environment with these spaces."""
        names = (
            "action_bounds",
            "hidden",
            "activation",
            "initial_log_std",
            "initial_weights",
            "shared",
            "network",
            "lstm",
        )
        options = {name: getattr(self, name) for name in names}
        return PolicySpec.from_spaces(observation_space, action_space, **options)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dataclasses.asdict(self) | {"run_dir": str(self.directory)}

    @staticmethod
    def from_dict(values: dict[str, Any]) -> "TrainConfig":
        """The inverse of `to_dict`; what `missing_from` names has its default."""
        algorithm = CONFIGS[values["algo"]](**_tuples(values["algorithm"]))
        return TrainConfig(**_tuples(values) | {"algorithm": algorithm, "run_dir": Path(values["run_dir"])})


def missing_from(values: dict[str, Any]) -> list[str]:
    """Fields that a config had not yet when it was written."""
    kinds = (TrainConfig, values), (CONFIGS[values["algo"]], values["algorithm"])
    return [field.name for kind, given in kinds for field in dataclasses.fields(kind) if field.name not in given]


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
