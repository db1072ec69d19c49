"""Running statistics against numpy over everything seen, and PopArt's promise to keep its outputs."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from ratpg.rl.normalize import ObservationNormalizer, PopArtHead, RewardNormalizer, RunningMoments


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def batches() -> list[Tensor]:
    return [3.0 * random(size, 4, seed=size) + 100.0 for size in (1, 5, 64, 0, 2)]


def test_running_moments_are_those_of_all_batches_together() -> None:
    moments = RunningMoments((4,))
    for batch in batches():
        moments.update(batch)
    everything = torch.cat(batches()).numpy()
    assert moments.count.item() == len(everything)
    assert_close(moments.mean.numpy(), everything.mean(0), rtol=1e-12, atol=0)
    assert_close(moments.variance.numpy(), everything.var(0), rtol=1e-12, atol=0)


def test_running_moments_keep_their_digits_far_from_zero() -> None:
    moments = RunningMoments()
    for seed in range(10):
        moments.update(1e8 + random(1000, seed=seed))
    assert moments.variance.item() == pytest.approx(1.0, rel=0.05)


def test_running_moments_are_those_of_the_standard_normal_before_any_row() -> None:
    moments = RunningMoments((2,))
    assert_close(moments.mean, torch.zeros(2, dtype=torch.float64))
    assert_close(moments.variance, torch.ones(2, dtype=torch.float64))


def test_observations_are_centred_scaled_and_clipped() -> None:
    normalizer = ObservationNormalizer((4,), limit=1.5)
    for batch in batches():
        normalizer.update(batch)
    everything = torch.cat(batches()).numpy()
    observations = random(100, 4, seed=3) * 4 + 100
    standard = (observations.numpy() - everything.mean(0)) / np.sqrt(everything.var(0) + 1e-8)
    assert (np.abs(standard) > 1.5).any()
    actual = normalizer(observations.float())
    assert_close(actual.double().numpy(), standard.clip(-1.5, 1.5), rtol=1e-5, atol=1e-5)


def test_an_observation_normalizer_changes_only_when_updated() -> None:
    normalizer, observations = ObservationNormalizer((4,)), random(10, 4).float()
    assert_close(normalizer(observations), observations.clamp(-5, 5))
    assert_close(normalizer(observations), observations.clamp(-5, 5))


def test_normalizing_leaves_the_raw_observations_alone() -> None:
    normalizer, observations = ObservationNormalizer((4,)), 100 * random(10, 4).float()
    before = observations.clone()
    normalizer(observations)
    assert torch.equal(observations, before)


def test_a_constant_observation_does_not_blow_up() -> None:
    normalizer = ObservationNormalizer((1,))
    normalizer.update(torch.full((50, 1), 3.0))
    assert_close(normalizer(torch.tensor([[3.0]])), torch.zeros(1, 1))


class NaiveRewardScaling:
    """Discounted returns of each environment in a plain loop; divides by their standard deviation so far."""

    def __init__(self, num_envs: int, gamma: float, limit: float):
        self.running, self.gamma, self.limit, self.seen = [0.0] * num_envs, gamma, limit, []

    def __call__(self, rewards: np.ndarray, done: np.ndarray, valid: np.ndarray) -> np.ndarray:
        for t in range(len(rewards)):
            for n in range(len(self.running)):
                if not valid[t, n]:
                    continue
                self.running[n] = self.gamma * self.running[n] + rewards[t, n]
                self.seen.append(self.running[n])
                if done[t, n]:
                    self.running[n] = 0.0
        return (rewards / np.sqrt(np.var(self.seen) + 1e-8)).clip(-self.limit, self.limit)


def test_rewards_are_divided_by_the_deviation_of_the_discounted_return() -> None:
    num_envs, limit = 3, 0.5
    normalizer, naive = RewardNormalizer(num_envs, 0.9, limit), NaiveRewardScaling(num_envs, 0.9, limit)
    valid_next = torch.ones(num_envs, dtype=torch.bool)
    clipped = False
    for seed in range(4):  # returns under way are carried from rollout to rollout
        generator = torch.Generator().manual_seed(seed)
        rewards = torch.randn(20, num_envs, generator=generator) + 0.5
        done = torch.rand(20, num_envs, generator=generator) < 0.2
        valid = torch.ones(20, num_envs, dtype=torch.bool)
        for t in range(20):
            valid[t] = valid_next
            done[t] &= valid[t]
            valid_next = ~done[t]
        rewards[~valid] = 0.0
        actual = normalizer(rewards, done, valid)
        expected = naive(rewards.double().numpy(), done.numpy(), valid.numpy())
        clipped |= bool((np.abs(expected) == limit).any())
        assert_close(actual.double().numpy(), expected, rtol=1e-5, atol=1e-6)
    assert clipped


def test_scaled_rewards_keep_their_sign() -> None:
    rewards = torch.full((50, 2), 7.0)
    never, always = torch.zeros(50, 2, dtype=torch.bool), torch.ones(50, 2, dtype=torch.bool)
    assert (RewardNormalizer(2, 0.99)(rewards, never, always) > 0).all()


@pytest.mark.parametrize("beta", [0.5, 0.99999])
def test_popart_keeps_its_outputs_when_its_statistics_move(beta: float) -> None:
    head, features = PopArtHead(8, beta).double(), random(32, 8)
    for seed, scale in enumerate((1.0, 100.0, 0.01, 1e4)):
        before = head.denormalize(head(features))
        head.update(scale * random(64, seed=seed) - 50.0 * scale)
        after = head.denormalize(head(features))
        # The weights are rescaled in float32; outputs move by no more than its rounding at the size of the returns.
        assert_close(after, before, rtol=1e-5, atol=1e-5 * head.std.item())


def test_popart_normalizes_the_returns_it_was_updated_with() -> None:
    head, returns = PopArtHead(8), 30.0 * random(1000) + 500.0
    head.update(returns)
    targets = head.normalize(returns)
    assert targets.mean().item() == pytest.approx(0.0, abs=1e-4)
    assert targets.std(correction=0).item() == pytest.approx(1.0, abs=1e-4)


def test_popart_statistics_are_bias_corrected_exponential_averages() -> None:
    beta, head, mean, square, weight = 0.8, PopArtHead(8, 0.8), 0.0, 0.0, 0.0
    for seed in range(5):
        returns = random(20, seed=seed) + seed
        head.update(returns)
        mean = beta * mean + (1 - beta) * returns.mean().item()
        square = beta * square + (1 - beta) * returns.square().mean().item()
        weight = beta * weight + 1 - beta
    assert head.mean.item() == pytest.approx(mean / weight, rel=1e-12)
    assert head.std.item() == pytest.approx((square / weight - (mean / weight) ** 2) ** 0.5, rel=1e-9)


def test_popart_denormalize_undoes_normalize() -> None:
    head, returns = PopArtHead(8), random(100).float() * 7 - 3
    head.update(returns)
    assert_close(head.denormalize(head.normalize(returns)), returns)


def test_popart_survives_returns_that_are_all_the_same() -> None:
    head = PopArtHead(8)
    head.update(torch.full((10,), 5.0))
    assert head.normalize(torch.full((10,), 5.0)).abs().max() < 1e-3
    assert head(random(3, 8).float()).isfinite().all()
