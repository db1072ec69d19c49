"""PPO's update against a naive one, in float64."""

import pytest
import torch
from torch import Tensor, nn

from ratpg.algorithms import PPO, PPOConfig
from ratpg.rl.batch import Batch
from ratpg.rl.networks.perceptron import backpropagate
from ratpg.rl.policy import ActorCritic
from ratpg.rl.spec import PolicySpec

from .problem import DISCRETE, GAUSSIAN, ROWS, make_batch, make_policy


def naive_update(policy: ActorCritic, batch: Batch, config: PPOConfig, generator: torch.Generator) -> None:
    """Sample by sample, with branches where the update has `minimum`, and Adam written out."""
    policy.value_head.update(batch.returns)
    parameters = [*policy.actor.parameters(), *policy.critic.parameters()]
    first, second, count = [torch.zeros_like(p) for p in parameters], [torch.zeros_like(p) for p in parameters], 0
    mean, std = policy.value_head.mean, policy.value_head.std
    for _ in range(config.epochs):
        for index in torch.randperm(ROWS, generator=generator).tensor_split(config.minibatches):
            y = batch.advantages[index]
            y = (y - y.mean()) / y.std(correction=0)
            distribution = policy.actor(batch.observations[index])
            log_prob, entropy = distribution.log_prob(batch.actions[index]), distribution.entropy()
            values = policy.critic(batch.observations[index])
            losses: list[Tensor] = []
            for i, row in enumerate(index):
                ratio = (log_prob[i] - batch.log_prob[row]).exp()
                low, high = 1 - config.clip_range, 1 + config.clip_range
                stopped = (y[i] > 0 and ratio > high) or (y[i] < 0 and ratio < low)
                gain = y[i] * (high if y[i] > 0 else low) if stopped else y[i] * ratio
                target, before = (
                    (v - mean) / std for v in (batch.returns[row], (batch.returns - batch.advantages)[row])
                )
                error = (values[i] - target) ** 2
                if config.value_clip_range is not None and abs(values[i] - before) > config.value_clip_range:
                    bound = before + config.value_clip_range * torch.sign(values[i] - before).detach()
                    error = torch.maximum(error, (bound - target) ** 2)
                losses.append(-gain - config.entropy_coefficient * entropy[i] + config.value_coefficient * error / 2)
            gradients = torch.autograd.grad(torch.stack(losses).mean(), parameters)
            norm = torch.stack([g.norm() for g in gradients]).norm()
            count += 1
            with torch.no_grad():
                for p, g, m, v in zip(parameters, gradients, first, second, strict=True):
                    g = g * min(1.0, config.max_grad_norm / (norm.item() + 1e-6))
                    m.mul_(0.9).add_(0.1 * g)
                    v.mul_(0.999).add_(0.001 * g**2)
                    root = (v / (1 - 0.999**count)).sqrt() + 1e-5
                    p -= config.learning_rate * m / (1 - 0.9**count) / root


@pytest.mark.parametrize("spec", [GAUSSIAN, DISCRETE], ids=["gaussian", "categorical"])
@pytest.mark.parametrize("value_clip_range", [None, 0.05])
@pytest.mark.parametrize(("clip_range", "entropy_coefficient"), [(0.2, 0.0), (0.02, 0.3)])
@pytest.mark.parametrize("written_out", [True, False])
def test_an_update_equals_the_naive_one(
    spec: PolicySpec,
    value_clip_range: float | None,
    clip_range: float,
    entropy_coefficient: float,
    written_out: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = PPOConfig(
        learning_rate=0.02,
        epochs=3,
        minibatches=3,
        clip_range=clip_range,
        value_clip_range=value_clip_range,
        entropy_coefficient=entropy_coefficient,
    )
    policy, naive = make_policy(spec), make_policy(spec)
    if not written_out:
        monkeypatch.setattr(policy, "actor_layers", lambda: None)
    passes = []
    monkeypatch.setattr("ratpg.algorithms.ppo.backpropagate", lambda *args: passes.append(1) or backpropagate(*args))
    batch = make_batch(policy)
    metrics = PPO(policy, config, torch.Generator().manual_seed(7)).update(batch)
    assert len(passes) == (2 * 3 * 3 if written_out else 0)  # of both networks
    naive_update(naive, batch, config, torch.Generator().manual_seed(7))
    start = make_policy(spec)
    actual, expected, before = (nn.utils.parameters_to_vector(p.parameters()).detach() for p in (policy, naive, start))
    # The update adds 1e-8 to the root mean square that advantages are divided by.
    assert ((actual - expected).norm() / (expected - before).norm()).item() < 1e-7
    assert 0 < metrics["clip_fraction"] < 1


def test_the_learning_rate_falls_with_what_remains_of_the_run() -> None:
    policy = make_policy(GAUSSIAN)
    batch = make_batch(policy)
    for anneal, expected in [(True, 0.25e-3), (False, 1e-3)]:
        ppo = PPO(policy, PPOConfig(learning_rate=1e-3, anneal_learning_rate=anneal, minibatches=2), torch.Generator())
        assert ppo.update(batch, remaining=0.25)["learning_rate"] == pytest.approx(expected)


def test_passes_stop_at_the_target_kl() -> None:
    kls = []
    for target in (None, 0.02):
        policy = make_policy(GAUSSIAN)
        ppo = PPO(policy, PPOConfig(learning_rate=0.02, epochs=30, minibatches=2, target_kl=target), torch.Generator())
        kls.append(ppo.update(make_batch(policy))["kl"])
    assert 0.02 < kls[1] < kls[0] / 2
