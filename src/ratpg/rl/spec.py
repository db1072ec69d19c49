"""What a policy is built from, in plain values, so that a checkpoint can hold it."""

from dataclasses import dataclass
from typing import Any, Literal

import gymnasium as gym
import numpy as np

from ratpg.rl.envs.vec_env import UnsupportedSpace, stored_dtype
from ratpg.rl.networks.mlp import InitialWeights

ActionBounds = Literal["clip", "censor", "tanh"]
ActionKind = Literal["gaussian", "categorical", "multi-categorical", "bernoulli"]
Network = Literal["mlp", "nature-cnn", "impala"]

OF_SPACES = "observation_shape", "action_shape", "choices", "first_choices", "action_low", "action_high", "action_dtype"
"""What of a `PolicySpec` an environment's spaces decide, whatever the network."""


@dataclass(frozen=True)
class PolicySpec:
    """Shapes, bounds and options of a policy.

    Attributes:
        observation_shape: shape of one observation.
        action_shape: shape of one action; empty for a single discrete one.
        choices: how many values each discrete action has, flat; empty for continuous ones.
        first_choices: the least value of each discrete action, flat.
        action_low, action_high: bounds of continuous actions, flat; empty where unbounded.
        action_dtype: type of continuous actions as the simulator takes them: float32, or an integer type, to which they
            are rounded.
        images: whether observations are images of bytes.
        observation_dtype: type in which observations are kept: uint8, float32 or float64 (`stored_dtype`).
        action_bounds: how a sample of the unbounded Gaussian is fitted into the bounds: ``"clip"``, with the
            log-probability of the sample before clipping; ``"censor"``, clipped too, with the log-probability of what
            is left of it (`CensoredGaussian`); or ``"tanh"`` (squashed; log-probabilities are those of the unsquashed
            sample). In all, ±1 is mapped to the bounds.
        network: ``"mlp"``; or ``"nature-cnn"`` or ``"impala"``, for images.
        hidden: widths of the hidden layers of an MLP.
        activation: of an MLP, ``"relu"`` or ``"tanh"``.
        initial_log_std: of every continuous action.
        initial_weights: of an MLP and of the actor's head, ``"orthogonal"``, those of the head so small that the first
            policy is nearly the same everywhere; or ``"pytorch"``, as PyTorch draws them.
        shared: whether actor and critic are two heads of the same layers, instead of separate networks.
        lstm: width of an LSTM behind these layers; None for none.
    """

    observation_shape: tuple[int, ...]
    action_shape: tuple[int, ...]
    choices: tuple[int, ...] = ()
    first_choices: tuple[int, ...] = ()
    action_low: tuple[float, ...] = ()
    action_high: tuple[float, ...] = ()
    action_dtype: str = "float32"
    images: bool = False
    observation_dtype: str = "float32"
    action_bounds: ActionBounds = "clip"
    network: Network = "mlp"
    hidden: tuple[int, ...] = (256, 256)
    activation: str = "relu"
    initial_log_std: float = 0.0
    initial_weights: InitialWeights = "orthogonal"
    shared: bool = False
    lstm: int | None = None

    @staticmethod
    def from_spaces(
        observation_space: gym.Space,
        action_space: gym.Space,
        network: Network | Literal["auto"] = "mlp",
        **options: Any,
    ) -> "PolicySpec":
        """Reads shapes and bounds off a single environment's spaces.

        Args:
            observation_space, action_space: as the environment has them.
            network: ``"auto"`` for NatureCNN where observations are images, else an MLP.
            options: the other attributes.

        Raises:
            UnsupportedSpace: unless observations are Box and actions Box, Discrete, MultiDiscrete or MultiBinary; for
                spaces without a number; for a convolutional network without images; for ``"auto"`` with images in more
                than three dimensions.
        """
        if not isinstance(observation_space, gym.spaces.Box):
            raise UnsupportedSpace(f"observations must be a Box space, this environment has {observation_space}")
        for what, space in (("observations", observation_space), ("actions", action_space)):
            if (space.shape is not None and 0 in space.shape) or (what == "observations" and not space.shape):
                raise UnsupportedSpace(f"{what} must be arrays of at least one number, this environment has {space}")
        images = observation_space.dtype == np.uint8 and len(observation_space.shape) == 3
        if network == "auto" and observation_space.dtype == np.uint8 and len(observation_space.shape) > 3:
            raise UnsupportedSpace(
                "images must have three dimensions, with the frames of a stack among the colours; this environment has "
                f"{observation_space} (--network mlp takes it as plain numbers)"
            )
        if network == "auto":
            network = "nature-cnn" if images else "mlp"
        if network != "mlp" and not images:
            raise UnsupportedSpace(
                f"network {network} needs images, uint8 with three dimensions; this environment has {observation_space}"
            )
        actions = _actions(action_space)
        kept = stored_dtype(observation_space.dtype).name
        return PolicySpec(
            observation_space.shape, **actions, images=images, observation_dtype=kept, network=network, **options
        )

    @property
    def action_kind(self) -> ActionKind:
        """The family of the action's distribution."""
        if not self.choices:
            return "gaussian"
        if not self.action_shape:
            return "categorical"
        return "bernoulli" if set(self.choices) == {2} else "multi-categorical"

    @property
    def head_size(self) -> int:
        """Outputs of the actor's head."""
        sizes = {"gaussian": int(np.prod(self.action_shape)), "bernoulli": len(self.choices)}
        return sizes.get(self.action_kind, sum(self.choices))

    @property
    def kept_as(self) -> np.dtype:
        """The type in which rollouts keep raw observations."""
        return np.dtype(np.uint8 if self.images else self.observation_dtype)

    @property
    def convolutional(self) -> bool:
        """Whether the layers are convolutions, whose forward pass is slow and takes much memory."""
        return self.network != "mlp"

    @property
    def colours_last(self) -> bool:
        """Whether an image is ``[H, W, C]`` rather than ``[C, H, W]``: there are fewer colours than pixels."""
        return self.images and self.observation_shape[-1] < self.observation_shape[0]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(C, H, W)`` of an image."""
        first, second, third = self.observation_shape
        return (third, first, second) if self.colours_last else (first, second, third)

    def differences(self, other: "PolicySpec") -> dict[str, Any]:
        """Attribute -> value here, of those that are another's.

        Simulators of one environment may differ in precision: bounds of actions are compared in single precision, and
        the type of observations is not compared.
        """
        here, there = vars(self), vars(other)
        bounds = ("action_low", "action_high")
        same = {name for name in bounds if np.array_equal(np.float32(here[name]), np.float32(there[name]))}
        same.add("observation_dtype")
        return {name: value for name, value in here.items() if name not in same and value != there[name]}

    @staticmethod
    def from_dict(values: dict[str, Any]) -> "PolicySpec":
        """The inverse of `dataclasses.asdict`, also after a round trip that made tuples lists."""
        fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        return PolicySpec(**fields)


def _actions(space: gym.Space) -> dict[str, Any]:
    if isinstance(space, gym.spaces.Discrete):
        return {"action_shape": (), "choices": (int(space.n),), "first_choices": (int(space.start),)}
    if isinstance(space, gym.spaces.MultiDiscrete):
        choices, first = space.nvec.flatten().tolist(), space.start.flatten().tolist()
        return {"action_shape": space.shape, "choices": tuple(choices), "first_choices": tuple(first)}
    if isinstance(space, gym.spaces.MultiBinary):
        count = int(np.prod(space.shape))
        return {"action_shape": space.shape, "choices": (2,) * count, "first_choices": (0,) * count}
    if not isinstance(space, gym.spaces.Box):
        raise UnsupportedSpace(
            f"actions must be a Box, Discrete, MultiDiscrete or MultiBinary space, this environment has {space}"
        )
    kind = {"action_dtype": space.dtype.name} if space.dtype.kind in "iu" else {}
    low, high = space.low.flatten().tolist(), space.high.flatten().tolist()
    bounded = np.abs(low + high) < np.finfo(np.float32).max  # the largest number stands for infinity in some
    if bounded.any() and not bounded.all():
        raise UnsupportedSpace(f"actions must be bounded on all sides or none, this environment has {space}")
    if not bounded.all():
        return {"action_shape": space.shape, **kind}
    return {"action_shape": space.shape, "action_low": tuple(low), "action_high": tuple(high), **kind}
