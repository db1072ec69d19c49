"""Actor-critic policies that own everything between a raw observation and the action the simulator gets."""

from dataclasses import dataclass
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from ratpg.natgrad import PerSampleParameter
from ratpg.rl.distributions import Categorical, CensoredGaussian, DiagonalGaussian, Distribution
from ratpg.rl.envs.vec_env import UnsupportedSpace
from ratpg.rl.networks.mlp import InitialWeights, initialised, mlp
from ratpg.rl.networks.perceptron import PerceptronLayer, perceptron_layers
from ratpg.rl.normalize import ObservationNormalizer, PopArtHead

ActionBounds = Literal["clip", "censor", "tanh"]


@dataclass(frozen=True)
class PolicySpec:
    """What a policy is built from, in plain values, so that a checkpoint can hold it.

    Attributes:
        observation_shape: shape of one observation.
        action_shape: shape of one continuous action; empty for discrete ones.
        num_actions: number of discrete actions, 0 for continuous ones.
        action_start: the first discrete action.
        action_low, action_high: bounds of continuous actions, flat; empty where unbounded.
        action_bounds: how a sample of the unbounded Gaussian is fitted into the bounds: ``"clip"``, with the
            log-probability of the sample before clipping; ``"censor"``, clipped too, with the log-probability of what
            is left of it (`CensoredGaussian`); or ``"tanh"`` (squashed; log-probabilities are those of the unsquashed
            sample). In all, ±1 is mapped to the bounds.
        hidden: widths of the hidden layers.
        activation: ``"relu"`` or ``"tanh"``.
        initial_log_std: of every continuous action.
        initial_weights: ``"orthogonal"``, those of the actor's head so small that the first policy is nearly the same
            everywhere; or ``"pytorch"``, as PyTorch draws them.
        shared: whether actor and critic are two heads of the same hidden layers, instead of separate networks.
    """

    observation_shape: tuple[int, ...]
    action_shape: tuple[int, ...]
    num_actions: int
    action_start: int
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]
    action_bounds: ActionBounds = "clip"
    hidden: tuple[int, ...] = (256, 256)
    activation: str = "relu"
    initial_log_std: float = 0.0
    initial_weights: InitialWeights = "orthogonal"
    shared: bool = False

    @staticmethod
    def from_spaces(observation_space: gym.Space, action_space: gym.Space, **options: Any) -> "PolicySpec":
        """Reads shapes and bounds off a single environment's spaces.

        Raises:
            UnsupportedSpace: unless observations are Box and actions Box or Discrete.
        """
        if not isinstance(observation_space, gym.spaces.Box):
            raise UnsupportedSpace(f"observations must be a Box space, this environment has {observation_space}")
        shape: tuple[int, ...] = observation_space.shape
        if isinstance(action_space, gym.spaces.Discrete):
            return PolicySpec(shape, (), int(action_space.n), int(action_space.start), (), (), **options)
        if not isinstance(action_space, gym.spaces.Box):
            raise UnsupportedSpace(f"actions must be a Box or Discrete space, this environment has {action_space}")
        low, high = action_space.low.flatten().tolist(), action_space.high.flatten().tolist()
        bounded = np.isfinite(low + high)
        if bounded.any() and not bounded.all():
            raise UnsupportedSpace(f"actions must be bounded on all sides or none, this environment has {action_space}")
        if not bounded.all():
            low, high = [], []
        return PolicySpec(shape, action_space.shape, 0, 0, tuple(low), tuple(high), **options)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> "PolicySpec":
        """The inverse of `dataclasses.asdict`, also after a round trip that made tuples lists."""
        fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        return PolicySpec(**fields)


class GaussianActor(nn.Module):
    """Normalised observations -> a Gaussian with a state-independent log standard deviation, censored or not."""

    def __init__(self, body: nn.Sequential, head: nn.Linear, initial_log_std: float, censored: bool):
        super().__init__()
        self.kind = CensoredGaussian if censored else DiagonalGaussian
        self.body = body
        self.head = head
        self.log_std = PerSampleParameter(torch.full((head.out_features,), initial_log_std))

    def forward(self, observations: Tensor) -> DiagonalGaussian | CensoredGaussian:
        return self.distribution(self.head(self.body(observations)))

    def distribution(self, mean: Tensor) -> DiagonalGaussian | CensoredGaussian:
        """What the head's output means."""
        return self.kind(mean, self.log_std(mean))


class CategoricalActor(nn.Module):
    """Normalised observations -> `Categorical`."""

    def __init__(self, body: nn.Sequential, head: nn.Linear):
        super().__init__()
        self.body = body
        self.head = head

    def forward(self, observations: Tensor) -> Categorical:
        return self.distribution(self.head(self.body(observations)))

    def distribution(self, logits: Tensor) -> Categorical:
        """What the head's output means."""
        return Categorical(logits)


class ActorCritic(nn.Module):
    """Actor and critic, separate or sharing their hidden layers, over one observation normaliser.

    Actor and critic take *normalised* observations ``[B, d]``, as `normalize` returns them.
    """

    def __init__(self, spec: PolicySpec):
        super().__init__()
        self.spec = spec
        d_obs = int(np.prod(spec.observation_shape))
        self.normalizer = ObservationNormalizer((d_obs,))
        network = d_obs, spec.hidden, spec.activation, spec.initial_weights
        body, d_body = mlp(*network), (d_obs, *spec.hidden)[-1]
        self.noise_size = spec.num_actions or int(np.prod(spec.action_shape))
        head = initialised(nn.Linear(d_body, self.noise_size), 0.01, spec.initial_weights)
        self.actor: GaussianActor | CategoricalActor
        if spec.num_actions:
            self.actor = CategoricalActor(body, head)
        else:
            censored = spec.action_bounds == "censor" and len(spec.action_low) > 0
            self.actor = GaussianActor(body, head, spec.initial_log_std, censored)
        self.value_head = PopArtHead(d_body)
        features = body if spec.shared else mlp(*network)
        self.critic = nn.Sequential(features, self.value_head, nn.Flatten(0))
        self._low, self._high = (np.array(bounds, np.float32) for bounds in (spec.action_low, spec.action_high))
        self._middle, self._half_range = (self._high + self._low) / 2, (self._high - self._low) / 2

    @property
    def device(self) -> torch.device:
        return self.normalizer.shift.device

    def normalize(self, observations: Tensor) -> Tensor:
        """Raw observations ``[..., *observation_shape]`` -> normalised ``[..., d]``."""
        if len(self.spec.observation_shape) != 1:
            observations = observations.flatten(observations.ndim - len(self.spec.observation_shape))
        return self.normalizer(observations)

    def actor_critic(self, normalized: Tensor) -> tuple[Distribution, Tensor]:
        """The action distribution and the values ``[B]`` in PopArt's units, from one pass of shared layers."""
        if not self.spec.shared:
            return self.actor(normalized), self.critic(normalized)
        features = self.actor.body(normalized)
        values = self.value_head(features).squeeze(-1)
        return self.actor.distribution(self.actor.head(features)), values

    def critic_layers(self) -> list[PerceptronLayer] | None:
        """The critic's layers; None where it is no plain perceptron."""
        features = self.critic[0]
        return perceptron_layers([*features, self.value_head]) if isinstance(features, nn.Sequential) else None

    def value(self, normalized: Tensor) -> Tensor:
        """State values in the units of returns, ``[B]``."""
        return self.value_head.denormalize(self.critic(normalized))

    def draw_noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Noise ``[*shape, size]`` for `Distribution.sample`."""
        kind = Categorical if self.spec.num_actions else DiagonalGaussian
        return kind.noise(shape, self.noise_size, generator).to(self.device)

    def empty_actions(self, shape: tuple[int, ...]) -> Tensor:
        """Room for sampled actions, ``[*shape]`` integers or ``[*shape, A]``."""
        if self.spec.num_actions:
            return torch.empty(shape, dtype=torch.int64, device=self.device)
        return torch.empty(*shape, self.noise_size, device=self.device)

    def environment_actions(self, actions: Tensor) -> np.ndarray:
        """Sampled actions ``[B]`` or ``[B, A]`` -> what the simulator takes, ``[B, *action_shape]``."""
        sampled = actions.cpu().numpy()
        if self.spec.num_actions:
            return sampled + self.spec.action_start
        if self.spec.action_low:
            unit = np.tanh(sampled) if self.spec.action_bounds == "tanh" else np.clip(sampled, -1, 1)
            # Clipped once more, since rounding may have passed a bound.
            sampled = np.clip(self._middle + self._half_range * unit, self._low, self._high)
        return sampled.reshape(len(sampled), *self.spec.action_shape)

    @torch.inference_mode()
    def act(self, observations: Tensor) -> np.ndarray:
        """Deterministic actions (the distribution's mode) for raw observations, as the simulator takes them."""
        distribution: Distribution = self.actor(self.normalize(observations))
        return self.environment_actions(distribution.mode())
