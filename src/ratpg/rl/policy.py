"""Actor-critic policies that own everything between a raw observation and the action the simulator gets."""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from ratpg.natgrad import PerSampleParameter
from ratpg.rl.distributions import (
    Bernoulli,
    Categorical,
    CensoredGaussian,
    DiagonalGaussian,
    Distribution,
    MultiCategorical,
)
from ratpg.rl.memory import Memory
from ratpg.rl.networks.images import InParts
from ratpg.rl.networks.impala import IMPALA
from ratpg.rl.networks.mlp import initialised, mlp
from ratpg.rl.networks.nature_cnn import NatureCNN
from ratpg.rl.networks.perceptron import PerceptronLayer, perceptron_layers
from ratpg.rl.networks.recurrent import Reader, RecurrentBody, Sequences
from ratpg.rl.normalize import ObservationNormalizer, PopArtHead
from ratpg.rl.spec import ActionKind, PolicySpec

Observations = Tensor | Sequences
"""What actor and critic take: normalised observations ``[B, ...]``, or, where they are recurrent, sequences of them."""

NOISE: dict[ActionKind, Callable[[tuple[int, ...], int, torch.Generator], Tensor]] = {
    "gaussian": DiagonalGaussian.noise,
    "categorical": Categorical.noise,
    "multi-categorical": MultiCategorical.noise,
    "bernoulli": Bernoulli.noise,
}


class GaussianActor(nn.Module):
    """Normalised observations -> a Gaussian with a state-independent log standard deviation, censored or not."""

    def __init__(self, body: nn.Module, head: nn.Linear, initial_log_std: float, censored: bool):
        super().__init__()
        self.kind = CensoredGaussian if censored else DiagonalGaussian
        self.body = body
        self.head = head
        self.log_std = PerSampleParameter(torch.full((head.out_features,), initial_log_std))

    def forward(self, observations: Observations) -> DiagonalGaussian | CensoredGaussian:
        return self.distribution(self.head(self.body(observations)))

    def distribution(self, mean: Tensor) -> DiagonalGaussian | CensoredGaussian:
        """What the head's output means."""
        return self.kind(mean, self.log_std(mean))


class DiscreteActor(nn.Module):
    """Normalised observations -> a distribution of discrete actions.

    Args:
        body: from observations to features.
        head: from features to logits.
        distribution: what the logits mean.
    """

    def __init__(self, body: nn.Module, head: nn.Linear, distribution: Callable[[Tensor], Distribution]):
        super().__init__()
        self.body = body
        self.head = head
        self.distribution = distribution

    def forward(self, observations: Observations) -> Distribution:
        return self.distribution(self.head(self.body(observations)))


class ActorCritic(nn.Module):
    """Actor and critic, separate or sharing their hidden layers, over one observation normaliser.

    Actor and critic take *normalised* observations ``[B, ...]``, as `normalize` returns them, or sequences of them.

    Attributes:
        low, high: bounds of continuous actions in single precision, flat; empty where there are none.
        integer_bounds: the same, exact, where actions are integers; None otherwise.
    """

    normalizer: ObservationNormalizer | None
    actor: GaussianActor | DiscreteActor

    def __init__(self, spec: PolicySpec):
        super().__init__()
        self.spec = spec
        d_obs = int(np.prod(spec.observation_shape))
        self.normalizer = ObservationNormalizer((d_obs,)) if not spec.convolutional else None
        body, width = _body(spec, "actor")
        head = initialised(nn.Linear(width, spec.head_size), 0.01, spec.initial_weights)
        if spec.choices:
            self.actor = DiscreteActor(body, head, _discrete(spec))
        else:
            censored = spec.action_bounds == "censor" and len(spec.action_low) > 0
            self.actor = GaussianActor(body, head, spec.initial_log_std, censored)
        self.value_head = PopArtHead(width)
        features = body if spec.shared else _body(spec, "critic")[0]
        self.critic = nn.Sequential(features, self.value_head, nn.Flatten(0))
        self.low, self.high = _within(spec.action_low, np.inf), _within(spec.action_high, -np.inf)
        self._middle, self._half_range = (self.high + self.low) / 2, (self.high - self.low) / 2
        self._first_choices = np.array(spec.first_choices, np.int64)
        self.integer_bounds = None
        if spec.action_dtype != "float32":
            kind = np.dtype(spec.action_dtype)
            self.integer_bounds = np.array(spec.action_low, kind), np.array(spec.action_high, kind)

    @property
    def device(self) -> torch.device:
        return self.value_head.weighted_mean.device

    def new_memory(self, num_envs: int) -> Memory | None:
        """An empty memory for so many environments; None where the policy is not recurrent."""
        return Memory(num_envs, 2 * self.spec.lstm, self.device) if self.spec.lstm else None

    def normalize(self, observations: Tensor) -> Tensor:
        """Raw observations ``[..., *observation_shape]`` -> normalised ``[..., d]``, or images ``[..., C, H, W]``.

        This is the one conversion for acting, learning, evaluation and export. What another simulator gives in double
        precision is rounded to single first, where the policy was trained on single.
        """
        if self.normalizer is None:
            return observations.movedim(-1, -3) if self.spec.colours_last else observations
        if len(self.spec.observation_shape) != 1:
            observations = observations.flatten(observations.ndim - len(self.spec.observation_shape))
        if observations.dtype == torch.float64 and self.spec.observation_dtype != "float64":
            observations = observations.float()
        return self.normalizer(observations)

    def observe(self, observations: Tensor) -> None:
        """Moves the normaliser's statistics by raw observations ``[N, *observation_shape]``."""
        if self.normalizer is not None:
            self.normalizer.update(observations.flatten(1))

    @torch.no_grad()
    def widen(self, min_log_std: float) -> None:
        """Brings the log standard deviations of continuous actions, if there are any, up to a least one."""
        if isinstance(self.actor, GaussianActor):
            self.actor.log_std.value.clamp_(min=min_log_std)

    def actor_critic(self, normalized: Observations) -> tuple[Distribution, Tensor]:
        """The action distribution and the values ``[B]`` in PopArt's units, from one pass of shared layers."""
        if not self.spec.shared:
            return self.actor(normalized), self.critic(normalized)
        return self.heads(self.actor.body(normalized))

    def heads(self, features: Tensor) -> tuple[Distribution, Tensor]:
        """As `actor_critic`, from what the shared layers make of the observations, ``[B, width]``."""
        values = self.value_head(features).squeeze(-1)
        return self.actor.distribution(self.actor.head(features)), values

    def empty_features(self, shape: tuple[int, ...]) -> Tensor | None:
        """Room for what shared convolutions make of observations while acting, ``[*shape, width]``; None without such.

        They are kept since another forward pass would take as long as the first. An LSTM's are not: what its sequences
        are read by takes them from their start.
        """
        if not (self.spec.shared and self.spec.convolutional) or self.spec.lstm:
            return None
        return torch.empty(*shape, self.actor.head.in_features, device=self.device)

    def actor_layers(self) -> list[PerceptronLayer] | None:
        """The actor's layers; None where it is no plain perceptron."""
        body = self.actor.body
        return perceptron_layers([*body, self.actor.head]) if isinstance(body, nn.Sequential) else None

    def critic_layers(self) -> list[PerceptronLayer] | None:
        """The critic's layers; None where it is no plain perceptron."""
        features = self.critic[0]
        return perceptron_layers([*features, self.value_head]) if isinstance(features, nn.Sequential) else None

    def value(self, normalized: Observations) -> Tensor:
        """State values in the units of returns, ``[B]``."""
        return self.value_head.denormalize(self.critic(normalized))

    def draw_noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Noise ``[*shape, size]`` for `Distribution.sample`."""
        draw = NOISE[self.spec.action_kind]
        return draw(shape, self.spec.head_size, generator).to(self.device)

    def empty_actions(self, shape: tuple[int, ...]) -> Tensor:
        """Room for sampled actions: ``[*shape]`` integers, ``[*shape, n]`` of them, or ``[*shape, A]`` floats."""
        if not self.spec.choices:
            return torch.empty(*shape, self.spec.head_size, device=self.device)
        several = (len(self.spec.choices),) if self.spec.action_shape else ()
        return torch.empty(*shape, *several, dtype=torch.int64, device=self.device)

    def environment_actions(self, actions: Tensor) -> np.ndarray:
        """Sampled actions ``[B]`` or ``[B, A]`` -> what the simulator takes, ``[B, *action_shape]``."""
        sampled = actions.cpu().numpy()
        if self.spec.choices:
            sampled = sampled + (self._first_choices if self.spec.action_shape else self._first_choices[0])
        elif self.spec.action_low:
            unit = np.tanh(sampled) if self.spec.action_bounds == "tanh" else np.minimum(np.maximum(sampled, -1), 1)
            unit *= self._half_range
            unit += self._middle
            # Clipped once more, since rounding may have passed a bound.
            sampled = np.minimum(np.maximum(unit, self.low), self.high)
        if self.integer_bounds is not None:
            least, greatest = self.integer_bounds
            sampled = np.clip(np.rint(sampled).astype(least.dtype), least, greatest)
        return sampled.reshape(len(sampled), *self.spec.action_shape)

    @torch.inference_mode()
    def act(self, observations: Tensor, memory: Memory | None = None) -> np.ndarray:
        """Deterministic actions (the distribution's mode) for raw observations, as the simulator takes them.

        Args:
            observations: ``[N, *observation_shape]``.
            memory: `new_memory` of ``N`` environments where the policy is recurrent; it is moved on.
        """
        return self.environment_actions(self.act_on(self.normalize(observations), memory, slice(None)).mode())

    def act_on(self, normalized: Tensor, memory: Memory | None, where: slice) -> Distribution:
        """The action distribution for one step of the environments ``where``, whose memory is moved on."""
        if memory is None:
            distribution: Distribution = self.actor(normalized)
            return distribution
        body = self.actor.body
        assert isinstance(body, RecurrentBody)
        features, memory.actor[where] = body.step(normalized, memory.actor[where])
        return self.actor.distribution(self.actor.head(features))


def _within(bounds: tuple[float, ...], inwards: float) -> np.ndarray:
    """Bounds in single precision, of which none lies beyond the one it is rounded from."""
    rounded = np.array(bounds, np.float32)  # of whole numbers too, which Python compares with floats exactly
    beyond = [r > bound if inwards < 0 else r < bound for r, bound in zip(rounded.tolist(), bounds, strict=True)]
    return np.where(beyond, np.nextafter(rounded, np.float32(inwards)), rounded)


def _body(spec: PolicySpec, reader: Reader) -> tuple[nn.Module, int]:
    """The layers in front of a head, and the width of their output."""
    body: nn.Module
    if spec.network == "mlp":
        d_obs = int(np.prod(spec.observation_shape))
        body, width = mlp(d_obs, spec.hidden, spec.activation, spec.initial_weights), (d_obs, *spec.hidden)[-1]
    else:
        network = NatureCNN(spec.image_shape) if spec.network == "nature-cnn" else IMPALA(spec.image_shape)
        body, width = InParts(network), network.features
    return (RecurrentBody(body, width, spec.lstm, reader), spec.lstm) if spec.lstm else (body, width)


def _discrete(spec: PolicySpec) -> Callable[[Tensor], Distribution]:
    if spec.action_kind == "categorical":
        return Categorical
    return Bernoulli if spec.action_kind == "bernoulli" else partial(MultiCategorical, sizes=spec.choices)
