"""GAE of any rollout is that of a naive loop in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ratpg.rl.advantage import gae


@st.composite
def rollouts(draw: st.DrawFn) -> dict[str, Tensor]:
    """Episodes that end, are cut, or do both at once, and steps that only reset, as next-step reset has them."""
    steps, envs = draw(st.integers(1, 12)), draw(st.integers(1, 4))
    rates = draw(st.sampled_from([(0.0, 0.0), (0.3, 0.0), (0.0, 0.3), (0.3, 0.3), (1.0, 0.0), (0.0, 1.0)]))
    scale, seed = draw(st.sampled_from([1e-6, 1.0, 1e6])), draw(st.integers(0, 2**32 - 1))
    generator = torch.Generator().manual_seed(seed)
    rewards, values = (scale * torch.randn(n, envs, generator=generator) for n in (steps, steps + 1))
    terminated, truncated = (torch.rand(steps, envs, generator=generator) < rate for rate in rates)
    valid, ongoing = torch.ones(steps, envs, dtype=torch.bool), torch.rand(envs, generator=generator) < 0.8
    for t in range(steps):  # the step after an end only resets, whatever it is told
        valid[t] = ongoing
        terminated[t] &= ongoing
        truncated[t] &= ongoing
        rewards[t].masked_fill_(~ongoing, 0.0)
        ongoing = ~(terminated[t] | truncated[t])
    return {"rewards": rewards, "values": values, "terminated": terminated, "truncated": truncated, "valid": valid}


def naive(rollout: dict[str, Tensor], gamma: float, lam: float) -> Tensor:
    """The sum of discounted residuals to the end of each episode, term by term."""
    rewards, values = rollout["rewards"].double(), rollout["values"].double()
    steps, envs = rewards.shape
    advantages = torch.zeros(steps, envs, dtype=torch.float64)
    for n in range(envs):
        for start in range(steps):
            for t in range(start, steps):
                if not rollout["valid"][t, n]:
                    break
                bootstrap = 0.0 if rollout["terminated"][t, n] else values[t + 1, n]
                residual = rewards[t, n] + gamma * bootstrap - values[t, n]
                advantages[start, n] += (gamma * lam) ** (t - start) * residual
                if rollout["terminated"][t, n] or rollout["truncated"][t, n]:
                    break
    return advantages


discounts = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0.0, 1.0))


def check(rollout: dict[str, Tensor], gamma: float, lam: float) -> None:
    found, expected = gae(**rollout, gamma=gamma, lam=lam), naive(rollout, gamma, lam)
    size = float(torch.cat([rollout["rewards"], rollout["values"]]).abs().max())
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5 * size)
    assert (found[~rollout["valid"]] == 0).all()
    wide = {name: value.double() if value.is_floating_point() else value for name, value in rollout.items()}
    torch.testing.assert_close(gae(**wide, gamma=gamma, lam=lam), expected, rtol=1e-12, atol=1e-12 * size)


@given(rollouts(), discounts, discounts)
def test_gae_is_that_of_a_naive_loop(rollout: dict[str, Tensor], gamma: float, lam: float) -> None:
    check(rollout, gamma, lam)


@pytest.mark.slow
@settings(settings.get_profile("slow"))
@given(rollouts(), discounts, discounts)
def test_gae_is_that_of_a_naive_loop_at_length(rollout: dict[str, Tensor], gamma: float, lam: float) -> None:
    check(rollout, gamma, lam)


@given(rollouts(), discounts, st.floats(-3, 3))
def test_gae_is_linear_in_rewards_and_values(rollout: dict[str, Tensor], gamma: float, factor: float) -> None:
    wide = {name: value.double() if value.is_floating_point() else value for name, value in rollout.items()}
    scaled = wide | {name: factor * wide[name] for name in ("rewards", "values")}
    expected = factor * gae(**wide, gamma=gamma, lam=0.9)
    torch.testing.assert_close(gae(**scaled, gamma=gamma, lam=0.9), expected)


@given(rollouts(), st.floats(0.1, 1.0))
def test_exact_values_leave_no_advantage(rollout: dict[str, Tensor], gamma: float) -> None:
    """Where each reward is what the values promise, every residual is zero, and so is their sum."""
    wide = {name: value.double() if value.is_floating_point() else value for name, value in rollout.items()}
    values = wide["values"]
    wide["rewards"] = values[:-1] - gamma * values[1:].masked_fill(wide["terminated"], 0.0)
    found = gae(**wide, gamma=gamma, lam=0.95)
    assert found.abs().max() <= 1e-12 * values.abs().max()
