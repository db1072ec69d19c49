"""Continuous actions."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

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
class CensoredGaussian:
    """Independent normal actions of which only the part within ±1 is seen; ``mean`` and ``log_std`` are ``[B, A]``.

    A sample beyond a bound counts as the bound itself, which has all the probability that lies beyond it (Fujita and
    Maeda 2018, arXiv 1802.07564). Log-probability, entropy and divergence are those of what the simulator sees, with
    a density between the bounds and a mass on each of them, so that a mean far outside has almost no score there
    instead of one that only noise moves.
    """

    mean: Tensor
    log_std: Tensor

    noise = staticmethod(DiagonalGaussian.noise)

    def sample(self, noise: Tensor) -> Tensor:
        """Before censoring, so that it is the environment's bounds that are applied."""
        return torch.addcmul(self.mean, self.log_std.exp(), noise)

    def mode(self) -> Tensor:
        """The mean, before censoring."""
        return self.mean

    def log_prob(self, actions: Tensor) -> Tensor:
        """``[B]``; of samples as they come."""
        narrow = torch.exp(-self.log_std)
        scaled = (actions - self.mean) * narrow
        density = -(0.5 * scaled.square() + self.log_std + 0.5 * LOG_2PI)
        mass = torch.special.log_ndtr((-1 + actions.sign() * self.mean) * narrow)
        return torch.where(actions.abs() < 1, density, mass).sum(-1)

    def entropy(self) -> Tensor:
        """``[B]``, in nats; the sum of that of the density and that of the two masses."""
        below, above, inside, _, square = self._moments()
        masses = -(below.exp() * below + above.exp() * above)  # not `entr`, whose derivative at 0 is infinite
        return (masses + inside * (self.log_std + 0.5 * LOG_2PI) + 0.5 * square).sum(-1)

    def kl(self, other: "CensoredGaussian") -> Tensor:
        """``KL(self ‖ other) [B]``, in nats."""
        below, above, inside, first, square = self._moments()
        narrow = torch.exp(-other.log_std)
        others = (torch.special.log_ndtr((-1 + sign * other.mean) * narrow) for sign in (-1, 1))
        masses = sum(mine.exp() * (mine - theirs) for mine, theirs in zip((below, above), others, strict=True))
        shift, ratio = other.log_std - self.log_std, self.log_std.exp() * narrow
        offset = (self.mean - other.mean) * narrow
        # Between the bounds, with u = (a − mean) / std: log p − log q = shift − u²/2 + (ratio u + offset)²/2.
        density = (
            inside * (shift + 0.5 * offset.square()) + 0.5 * (ratio.square() - 1) * square + ratio * offset * first
        )
        return (masses + density).sum(-1)

    def _moments(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Log-masses on −1 and on 1; probability, mean and mean square of ``(a − mean) / std`` between them."""
        narrow = torch.exp(-self.log_std)
        low, high = (-1 - self.mean) * narrow, (1 - self.mean) * narrow
        below, above = torch.special.log_ndtr(low), torch.special.log_ndtr(-high)
        inside = (1 - below.exp() - above.exp()).clamp(min=0)
        at_low, at_high = (torch.exp(-0.5 * (z.square() + LOG_2PI)) for z in (low, high))
        return below, above, inside, at_low - at_high, inside + low * at_low - high * at_high

    def detach(self) -> "CensoredGaussian":
        return CensoredGaussian(self.mean.detach(), self.log_std.detach())

    def __getitem__(self, index: Tensor) -> "CensoredGaussian":
        return CensoredGaussian(self.mean[index], self.log_std[index])
