"""Action distributions over a batch: log-probability, entropy, KL divergence, mode, and sampling from given noise.

Noise is drawn apart from its use, so that a whole rollout's worth comes from one call to a seeded generator.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

LOG_2PI = math.log(2 * math.pi)


@dataclass(frozen=True)
class DiagonalGaussian:
    """Independent normal actions; ``mean`` and ``log_std`` are ``[B, A]``."""

    mean: Tensor
    log_std: Tensor

    @staticmethod
    def noise(shape: tuple[int, ...], size: int, generator: torch.Generator) -> Tensor:
        """Standard normal noise ``[*shape, size]`` for `sample`."""
        return torch.randn(*shape, size, generator=generator)

    def sample(self, noise: Tensor) -> Tensor:
        return torch.addcmul(self.mean, self.log_std.exp(), noise)

    def mode(self) -> Tensor:
        return self.mean

    def log_prob(self, actions: Tensor) -> Tensor:
        """``[B]``."""
        scaled = (actions - self.mean) * torch.exp(-self.log_std)
        return -(0.5 * scaled.square() + self.log_std).sum(-1) - 0.5 * LOG_2PI * actions.shape[-1]

    def entropy(self) -> Tensor:
        """``[B]``, in nats."""
        return (self.log_std + 0.5 * (1 + LOG_2PI)).sum(-1)

    def kl(self, other: "DiagonalGaussian") -> Tensor:
        """``KL(self ‖ other) [B]``, in nats."""
        shift = other.log_std - self.log_std
        spread = torch.exp(-2 * shift) + ((self.mean - other.mean) * torch.exp(-other.log_std)).square()
        return (shift + 0.5 * (spread - 1)).sum(-1)

    def detach(self) -> "DiagonalGaussian":
        return DiagonalGaussian(self.mean.detach(), self.log_std.detach())

    def __getitem__(self, index: Tensor) -> "DiagonalGaussian":
        return DiagonalGaussian(self.mean[index], self.log_std[index])


@dataclass(frozen=True)
class Categorical:
    """One of ``A`` discrete actions; ``logits`` are ``[B, A]``, actions ``[B]`` integers."""

    logits: Tensor

    @staticmethod
    def noise(shape: tuple[int, ...], size: int, generator: torch.Generator) -> Tensor:
        """Gumbel noise ``[*shape, size]`` for `sample` (the argmax of logits plus Gumbel noise is a sample)."""
        tiny = torch.finfo(torch.float32).tiny
        return -torch.rand(*shape, size, generator=generator).clamp(min=tiny).log_().neg_().clamp(min=tiny).log_()

    def sample(self, noise: Tensor) -> Tensor:
        return (self.logits + noise).argmax(-1)

    def mode(self) -> Tensor:
        return self.logits.argmax(-1)

    def log_prob(self, actions: Tensor) -> Tensor:
        """``[B]``."""
        return functional.log_softmax(self.logits, -1).gather(-1, actions[..., None]).squeeze(-1)

    def entropy(self) -> Tensor:
        """``[B]``, in nats."""
        log_p = functional.log_softmax(self.logits, -1)
        return -(log_p.exp() * log_p).sum(-1)

    def kl(self, other: "Categorical") -> Tensor:
        """``KL(self ‖ other) [B]``, in nats."""
        log_p = functional.log_softmax(self.logits, -1)
        return (log_p.exp() * (log_p - functional.log_softmax(other.logits, -1))).sum(-1)

    def detach(self) -> "Categorical":
        return Categorical(self.logits.detach())

    def __getitem__(self, index: Tensor) -> "Categorical":
        return Categorical(self.logits[index])


Distribution = DiagonalGaussian | Categorical
