"""GAE against closed forms, and against a naive loop over episodes."""

import pytest
import torch
from torch import Tensor

from ratpg.rl.advantage import gae

T, N = 40, 6


def random_steps(seed: int, end_rate: float = 0.2) -> dict[str, Tensor]:
    """Random rewards and values with ends laid out as next-step reset does: a reset-only step follows every end."""
    generator = torch.Generator().manual_seed(seed)
    rewards = torch.randn(T, N, generator=generator, dtype=torch.float64)
    values = torch.randn(T + 1, N, generator=generator, dtype=torch.float64)
    ends = torch.rand(T, N, generator=generator) < end_rate
    by_time_limit = torch.rand(T, N, generator=generator) < 0.5
    valid = torch.ones(T, N, dtype=torch.bool)
    valid[0] = torch.rand(N, generator=generator) < 0.5  # some episodes ended with the rollout before
    for t in range(T):
        ends[t] &= valid[t]
        if t + 1 < T:
            valid[t + 1] = ~ends[t]
    rewards[~valid] = 0.0
    return {
        "rewards": rewards,
        "values": values,
        "terminated": ends & ~by_time_limit,
        "truncated": ends & by_time_limit,
        "valid": valid,
    }


def no_ends(seed: int = 0) -> dict[str, Tensor]:
    return random_steps(seed, end_rate=0.0) | {"valid": torch.ones(T, N, dtype=torch.bool)}


def naive_gae(steps: dict[str, Tensor], gamma: float, lam: float) -> Tensor:
    """``A_t = Σ_l (γλ)^l δ_{t+l}`` up to the end of the episode of step t, one number at a time."""
    advantages = torch.zeros(T, N, dtype=torch.float64)
    for n in range(N):
        for t in range(T):
            if not steps["valid"][t, n]:
                continue
            discount = 1.0
            for k in range(t, T):
                next_value = 0.0 if steps["terminated"][k, n] else steps["values"][k + 1, n]
                delta = steps["rewards"][k, n] + gamma * next_value - steps["values"][k, n]
                advantages[t, n] += discount * delta
                discount *= gamma * lam
                if steps["terminated"][k, n] or steps["truncated"][k, n]:
                    break
    return advantages


@pytest.mark.parametrize("gamma, lam", [(0.99, 0.95), (0.9, 0.0), (1.0, 1.0), (0.5, 0.3), (0.0, 1.0)])
@pytest.mark.parametrize("seed", range(3))
def test_gae_equals_a_naive_loop_over_episodes(gamma: float, lam: float, seed: int) -> None:
    steps = random_steps(seed)
    assert steps["terminated"].any()
    assert steps["truncated"].any()
    valid = steps["valid"]  # the others are the business of a test below
    advantages, expected = gae(**steps, gamma=gamma, lam=lam), naive_gae(steps, gamma, lam)
    torch.testing.assert_close(advantages[valid], expected[valid], rtol=1e-12, atol=1e-12)


def test_without_discount_the_advantage_is_the_return_to_go_minus_the_value() -> None:
    steps = no_ends()
    to_go = steps["rewards"].flip(0).cumsum(0).flip(0) + steps["values"][-1]
    expected = to_go - steps["values"][:-1]
    torch.testing.assert_close(gae(**steps, gamma=1.0, lam=1.0), expected, rtol=1e-12, atol=1e-12)


def test_lambda_zero_is_the_one_step_temporal_difference() -> None:
    steps = no_ends()
    expected = steps["rewards"] + 0.9 * steps["values"][1:] - steps["values"][:-1]
    torch.testing.assert_close(gae(**steps, gamma=0.9, lam=0.0), expected, rtol=1e-12, atol=1e-12)


def single(terminated: bool, truncated: bool) -> float:
    """The advantage of one step that pays 1 from a state worth 10 to one worth 100, γ = 0.5."""
    advantage = gae(
        torch.tensor([[1.0]]),
        torch.tensor([[10.0], [100.0]]),
        torch.tensor([[terminated]]),
        torch.tensor([[truncated]]),
        torch.tensor([[True]]),
        gamma=0.5,
        lam=0.95,
    )
    return advantage.item()


def test_a_terminated_step_does_not_bootstrap() -> None:
    assert single(terminated=True, truncated=False) == 1 - 10


def test_a_truncated_step_bootstraps_from_the_value_of_its_final_observation() -> None:
    assert single(terminated=False, truncated=True) == 1 + 0.5 * 100 - 10


def test_a_step_that_is_both_terminated_and_truncated_does_not_bootstrap() -> None:
    assert single(terminated=True, truncated=True) == 1 - 10


def test_the_last_step_of_a_rollout_bootstraps_from_the_observation_after_it() -> None:
    assert single(terminated=False, truncated=False) == 1 + 0.5 * 100 - 10


def test_steps_that_only_reset_get_advantage_zero() -> None:
    steps = random_steps(0)
    advantages = gae(**steps, gamma=0.99, lam=0.95)
    assert (advantages[~steps["valid"]] == 0).all()


def test_nothing_after_the_end_of_an_episode_reaches_back_across_it() -> None:
    steps = random_steps(0, end_rate=0.0)
    steps["valid"][:] = True
    end = 10
    steps["truncated"][end] = True
    steps["valid"][end + 1] = False
    before = gae(**steps, gamma=0.99, lam=0.95)[: end + 1]
    steps["rewards"][end + 2 :] += 1000.0
    steps["values"][end + 2 :] -= 1000.0  # the value at end + 1 is the final observation's and does count
    torch.testing.assert_close(gae(**steps, gamma=0.99, lam=0.95)[: end + 1], before, rtol=0, atol=0)


def test_the_value_of_a_terminal_observation_matters_to_nothing() -> None:
    steps = random_steps(0, end_rate=0.0)
    steps["valid"][:] = True
    steps["terminated"][10] = True
    steps["valid"][11] = False
    before = gae(**steps, gamma=0.99, lam=0.95)
    steps["values"][11] = 1000.0
    after = gae(**steps, gamma=0.99, lam=0.95)
    torch.testing.assert_close(after[12:], before[12:], rtol=0, atol=0)
    torch.testing.assert_close(after[:11], before[:11], rtol=0, atol=0)
