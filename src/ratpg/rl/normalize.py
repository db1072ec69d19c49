"""Running statistics: observations, discounted returns, and PopArt's value targets. All are module buffers."""

import logging

import numpy as np
import torch
from torch import Tensor, nn

from ratpg.rl.outliers import without_outliers

log = logging.getLogger(__name__)


class RunningMoments(nn.Module):
    """Mean and variance of all the rows ever seen, merged batch by batch (Chan et al. 1979), in float64.

    Args:
        shape: shape of one row.
    """

    mean: Tensor
    m2: Tensor
    count: Tensor

    def __init__(self, shape: tuple[int, ...] = ()):
        super().__init__()
        self.register_buffer("mean", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("m2", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def update(self, rows: Tensor) -> None:
        """Merges ``rows [N, *shape]``."""
        if not len(rows):
            return
        rows = rows.to(torch.float64)
        mean = rows.mean(0)
        m2 = (rows - mean).square().sum(0)
        shift, total = mean - self.mean, self.count + len(rows)
        self.m2 += m2 + shift.square() * self.count * len(rows) / total
        self.mean += shift * len(rows) / total
        self.count.copy_(total)

    @property
    def variance(self) -> Tensor:
        """Population variance; one before the first update."""
        return torch.where(self.count > 0, self.m2 / self.count.clamp(min=1), 1.0)


class ObservationNormalizer(nn.Module):
    """``clip((x − mean) / std, ±limit)`` with running statistics that change only when `update` is called.

    It is computed in double precision and returned in single. A feature that is large and hardly varies, such as a date
    of 2026.9151, would lose its digits to single precision before the mean is subtracted, and loses none after.

    A single observation far outside is kept out of the statistics (`without_outliers`), which it would blind for good.
    The first one is logged as a warning; so is the first feature that single precision is too coarse for, where
    observations are given in single precision.

    Args:
        shape: shape of one observation.
        limit: bound of the result.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, shape: tuple[int, ...], limit: float = 5.0):
        super().__init__()
        self.limit = limit
        self.moments = RunningMoments(shape)
        self.register_buffer("shift", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(shape, dtype=torch.float64))
        self._warned: set[str] = set()

    def forward(self, observations: Tensor) -> Tensor:
        return (observations - self.shift).mul_(self.scale).clamp_(-self.limit, self.limit).float()

    @torch.no_grad()
    def update(self, observations: Tensor) -> None:
        """Moves the statistics by raw observations ``[N, *shape]``, all finite."""
        if not len(observations):
            return
        std = (self.moments.variance if self.moments.count > 0 else torch.zeros_like(self.shift)).sqrt()
        rows, outside = without_outliers(observations.to(torch.float64), self.moments.mean, std)
        if outside is not None:
            row, feature = outside.nonzero()[0].tolist()
            self._warn(
                "outlier",
                f"feature {feature} of an observation is {float(observations[row, feature]):g}, far outside of all "
                "others: such values are kept out of the running statistics",
            )
        self.moments.update(rows)
        self.shift.copy_(self.moments.mean)
        self.scale.copy_((self.moments.variance + 1e-8).rsqrt())
        if observations.dtype == torch.float32:
            self._look_for_coarse_features()

    def _look_for_coarse_features(self) -> None:
        """Warns where a feature varies by a few of the steps of single precision at its size."""
        std, step = self.moments.variance.sqrt(), self.moments.mean.abs() * torch.finfo(torch.float32).eps
        coarse = ((std > 0) & (std < 4 * step)).nonzero()
        if len(coarse):
            feature = int(coarse[0])
            self._warn(
                "coarse",
                f"feature {feature} of the observations is {self.moments.mean[feature]:.9g} ± {std[feature]:.1g}: "
                "float32 can hardly tell such values apart; let the environment return float64, or subtract a constant",
            )

    def _warn(self, kind: str, message: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            log.warning(message)


class RewardNormalizer(nn.Module):
    """Divides rewards by the running standard deviation of the discounted return, clipped to ±``limit``.

    Args:
        num_envs: environments, each with a running return of its own.
        gamma: discount of that return.
        limit: bound of the scaled reward.
    """

    returns: Tensor

    def __init__(self, num_envs: int, gamma: float, limit: float = 10.0):
        super().__init__()
        self.gamma, self.limit = gamma, limit
        self.moments = RunningMoments()
        self.register_buffer("returns", torch.zeros(num_envs, dtype=torch.float64))

    def forward(self, rewards: Tensor, done: Tensor, valid: Tensor) -> Tensor:
        """Updates the statistics with a rollout and scales it; all arguments are ``[T, N]``."""
        # In NumPy, which does a loop of small vectors at a fifth of torch's cost.
        running, history = self.returns.cpu().numpy().copy(), rewards.cpu().numpy().astype(np.float64)
        for discounted, ended in zip(history, done.cpu().numpy(), strict=True):
            running *= self.gamma
            running += discounted
            discounted[:] = running
            running[ended] = 0.0
        self.returns.copy_(torch.from_numpy(running))
        self.moments.update(torch.from_numpy(history).to(rewards.device)[valid])
        return (rewards / (self.moments.variance + 1e-8).sqrt().float()).clamp_(-self.limit, self.limit)


class PopArtHead(nn.Linear):
    """A value output that predicts normalised returns and keeps its unnormalised outputs when statistics move.

    PopArt (van Hasselt et al. 2016, arXiv 1602.07714): targets are normalised by exponential averages of mean and
    square with decay ``beta`` (bias-corrected), and weight and bias are rescaled at each update of the
    statistics so that the function in the units of returns is unchanged.

    Args:
        d_in: width of the features.
        beta: decay of the averages at each update.
    """

    weighted_mean: Tensor
    weighted_square: Tensor
    correction: Tensor

    def __init__(self, d_in: int, beta: float = 0.99999):
        super().__init__(d_in, 1)
        self.beta = beta
        for name in ("weighted_mean", "weighted_square", "correction"):
            self.register_buffer(name, torch.zeros((), dtype=torch.float64))

    @property
    def mean(self) -> Tensor:
        return torch.where(self.correction > 0, self.weighted_mean / self.correction, 0.0)

    @property
    def std(self) -> Tensor:
        variance = self.weighted_square / self.correction - self.mean.square()
        return torch.where(self.correction > 0, variance.clamp(min=1e-4).sqrt(), 1.0)

    @torch.no_grad()
    def update(self, returns: Tensor) -> None:
        """Moves the statistics towards ``returns [N]`` and rescales the layer to keep its outputs."""
        old_mean, old_std = self.mean, self.std
        returns = returns.to(torch.float64)
        self.weighted_mean.lerp_(returns.mean(), 1 - self.beta)
        self.weighted_square.lerp_(returns.square().mean(), 1 - self.beta)
        self.correction.lerp_(torch.ones_like(self.correction), 1 - self.beta)
        bias = (old_std * self.bias.double() + old_mean - self.mean) / self.std
        self.weight.mul_((old_std / self.std).float())
        self.bias.copy_(bias)

    def normalize(self, returns: Tensor) -> Tensor:
        return (returns - self.mean.float()) / self.std.float()

    def denormalize(self, values: Tensor) -> Tensor:
        return values * self.std.float() + self.mean.float()
