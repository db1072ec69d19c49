"""Discrete actions: one, several, and several of two choices each.

Each is sampled by the mode of its logits with noise added to them.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


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


@dataclass(frozen=True)
class MultiCategorical:
    """Independent discrete actions, ``A_k`` choices for the k-th of ``n``.

    Attributes:
        logits: ``[B, Σ A_k]``, those of the first action first; actions are ``[B, n]`` integers.
        sizes: the ``A_k``.
    """

    logits: Tensor
    sizes: tuple[int, ...]

    noise = staticmethod(Categorical.noise)

    @property
    def parts(self) -> list[Categorical]:
        """The distributions of the single actions."""
        return [Categorical(logits) for logits in self.logits.split(self.sizes, -1)]

    def sample(self, noise: Tensor) -> Tensor:
        noises = noise.split(self.sizes, -1)
        return torch.stack([part.sample(its) for part, its in zip(self.parts, noises, strict=True)], -1)

    def mode(self) -> Tensor:
        return torch.stack([part.mode() for part in self.parts], -1)

    def log_prob(self, actions: Tensor) -> Tensor:
        """``[B]``."""
        pairs = zip(self.parts, actions.unbind(-1), strict=True)
        return torch.stack([part.log_prob(its) for part, its in pairs]).sum(0)

    def entropy(self) -> Tensor:
        """``[B]``, in nats."""
        return torch.stack([part.entropy() for part in self.parts]).sum(0)

    def kl(self, other: "MultiCategorical") -> Tensor:
        """``KL(self ‖ other) [B]``, in nats."""
        return torch.stack([part.kl(its) for part, its in zip(self.parts, other.parts, strict=True)]).sum(0)

    def detach(self) -> "MultiCategorical":
        return MultiCategorical(self.logits.detach(), self.sizes)

    def __getitem__(self, index: Tensor) -> "MultiCategorical":
        return MultiCategorical(self.logits[index], self.sizes)


@dataclass(frozen=True)
class Bernoulli:
    """Independent actions of 0 or 1; ``logits [B, n]`` are those of 1, actions ``[B, n]`` integers."""

    logits: Tensor

    @staticmethod
    def noise(shape: tuple[int, ...], size: int, generator: torch.Generator) -> Tensor:
        """Logistic noise ``[*shape, size]`` for `sample`: logits plus noise are positive with the probability of 1."""
        return torch.rand(*shape, size, generator=generator).logit_(eps=torch.finfo(torch.float32).eps / 2)

    def sample(self, noise: Tensor) -> Tensor:
        return (self.logits + noise > 0).long()

    def mode(self) -> Tensor:
        return (self.logits > 0).long()

    def log_prob(self, actions: Tensor) -> Tensor:
        """``[B]``."""
        return functional.logsigmoid(torch.where(actions > 0, self.logits, -self.logits)).sum(-1)

    def entropy(self) -> Tensor:
        """``[B]``, in nats."""
        return (functional.softplus(self.logits) - self.logits * self.logits.sigmoid()).sum(-1)

    def kl(self, other: "Bernoulli") -> Tensor:
        """``KL(self ‖ other) [B]``, in nats."""
        shift = self.logits - other.logits
        return (
            self.logits.sigmoid() * shift + functional.softplus(other.logits) - functional.softplus(self.logits)
        ).sum(-1)

    def detach(self) -> "Bernoulli":
        return Bernoulli(self.logits.detach())

    def __getitem__(self, index: Tensor) -> "Bernoulli":
        return Bernoulli(self.logits[index])
