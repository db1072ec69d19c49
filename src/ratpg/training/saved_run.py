"""What a run's checkpoint holds, checked as it is read: a run folder may come from anybody."""

import json
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from torch import Tensor

from ratpg.algorithms import CONFIGS
from ratpg.rl.policy import ActorCritic
from ratpg.rl.spec import PolicySpec
from ratpg.training import checkpoint
from ratpg.training.checkpoint import BadCheckpoint, first_line
from ratpg.training.config import TrainConfig, missing_from
from ratpg.training.fields import check_fields, matches, not_finite
from ratpg.training.heap import is_out_of_memory

FOREIGN = "GymV"
"""How ids begin of Gymnasium's environments that import another, which their options name."""

Episodes = TypedDict(
    "Episodes",
    {"returns": list[float], "lengths": list[int], "finished": int, "return": list[float], "length": list[int]},
)


class NumpyGenerator(TypedDict):
    """The state of a bit generator of NumPy's."""

    state: dict[str, Any]


class OneEnv(TypedDict):
    """What `ratpg.rl.envs.env_state` keeps of an environment."""

    simulator: dict[str, Tensor]
    layers: list[dict[str, Any]]
    generator: NumpyGenerator


class Envs(TypedDict):
    """What a vector environment keeps of itself."""

    envs: list[OneEnv]
    stagger: list[dict[str, Any]]


class State(TypedDict):
    """A checkpoint of a run."""

    config: str
    spec: dict[str, Any]
    policy: dict[str, Tensor]
    algorithm: dict[str, Any]
    reward_normalizer: dict[str, Tensor] | None
    episodes: Episodes
    memory: dict[str, Tensor] | None
    timesteps: int
    wall_time: float
    generator: Tensor
    global_generators: dict[str, Any]
    backend: str
    envs: Envs | None


class Untrusted(ValueError):
    """A run whose environment would run code that its checkpoint names."""


@dataclass(frozen=True)
class SavedRun:
    """A run as its checkpoint has it.

    Attributes:
        directory: the run's folder.
        config: as it was last trained with.
        spec: the policy's.
        state: everything in the checkpoint.
    """

    directory: Path
    config: TrainConfig
    spec: PolicySpec
    state: dict[str, Any]

    @staticmethod
    def read(directory: Path, complete: bool = False) -> "SavedRun":
        """Reads and checks a checkpoint.

        Args:
            directory: the run's folder.
            complete: whether a config that lacks settings, which had none when it was written, is refused.

        Raises:
            BadCheckpoint: where there is no readable checkpoint, or one that no training could have saved.
        """
        state = checkpoint.load(directory)
        with intact(directory):
            if type(state) is not dict or not matches(state, State):
                check_fields(State, state)
                raise TypeError(f"it has no {', '.join(sorted(State.__annotations__.keys() - state.keys()))}")
            values = json.loads(state["config"])
            check_fields(TrainConfig, values | {"run_dir": None})
            check_fields(CONFIGS[values["algo"]], values["algorithm"])
            missing = missing_from(values)
            if missing and complete:  # which would go on with today's defaults
                raise TypeError(f"its config has no {', '.join(missing)}")
            check_fields(PolicySpec, state["spec"])
            config, spec = TrainConfig.from_dict(values), PolicySpec.from_dict(state["spec"])
            if {len(state["episodes"][name]) for name in ("return", "length")} != {config.num_envs}:
                raise TypeError(f"its episodes are not those of {config.num_envs} environments")
            if state["timesteps"] < 0 or not state["wall_time"] >= 0:
                raise TypeError("it counts less than nothing")
        if broken := not_finite_in(state):
            raise BadCheckpoint(
                f"the checkpoint in {directory} cannot be used: {broken} is not finite{checkpoint.spare(directory)}"
            )
        return SavedRun(directory, config, spec, state)

    def policy(self) -> ActorCritic:
        """The policy, with its normaliser."""
        with intact(self.directory):
            policy = ActorCritic(self.spec)
            policy.load_state_dict(self.state["policy"])
            return policy

    def require_trust(self, trusted: bool) -> None:
        """Refuses an environment whose making runs code that the checkpoint chooses, unless it is trusted.

        Raises:
            Untrusted: saying what would be run, and how to allow it.
        """
        if not trusted and (reason := _code_named_by(self.config)):
            raise Untrusted(f"the run in {self.directory} {reason}: add --trust-env if you know who made this folder")


def _code_named_by(config: TrainConfig) -> str | None:
    """What making the run's environment would import or open beside what is registered; None where it is nothing."""
    module = config.env.rpartition(":")[0]
    if module:
        return f"is of {config.env}, for which the module '{module}' is imported"
    if config.env.startswith(FOREIGN):
        return f"is of {config.env}, which imports what its options name"
    for option in config.env_options:
        if any(sign in option for sign in "/\\:"):
            return f"gives its environment the option {option}, which may name a file or a module"
    return None


def not_finite_in(state: Mapping[str, Any]) -> str | None:
    """Of what was learnt the first thing that is not finite, which no checkpoint may hold; None where all is well."""
    place = not_finite({name: state[name] for name in ("policy", "algorithm", "reward_normalizer")})
    return place and place.removeprefix("it.")


def resume_command(config: TrainConfig) -> str:
    """What continues a run."""
    return f"ratpg resume {shlex.quote(str(config.directory))}{' --trust-env' if _code_named_by(config) else ''}"


def load_policy(directory: Path, trust_env: bool = True) -> tuple[ActorCritic, TrainConfig]:
    """The policy of a run's checkpoint, with its normaliser, and the run's config.

    Args:
        directory: the run's folder.
        trust_env: whether an environment is trusted that imports a module; for those who then make it.

    Raises:
        BadCheckpoint: where there is no readable checkpoint.
        Untrusted: as `SavedRun.require_trust`.
    """
    run = SavedRun.read(directory)
    run.require_trust(trust_env)
    return run.policy(), run.config


@contextmanager
def intact(directory: Path) -> Iterator[None]:
    """Reports whatever goes wrong with what a checkpoint holds as the checkpoint's fault."""
    try:
        yield
    except BadCheckpoint:
        raise
    except Exception as error:  # what is in it was written by anybody, and may break anything
        if is_out_of_memory(error):
            raise
        reason = f"it has no {error}" if isinstance(error, KeyError) else first_line(error)
        raise BadCheckpoint(
            f"the checkpoint in {directory} is damaged, or of another version: {reason}{checkpoint.spare(directory)}"
        ) from error
