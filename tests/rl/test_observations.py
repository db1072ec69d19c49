"""Acting, learning, evaluation and export see the same observations, whatever their precision."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch.testing import assert_close

import odd_envs
from ratpg.integrations.onnx import onnx_program
from ratpg.rl.acting import _ModuleActor, _PerceptronActor
from ratpg.rl.batch import make_batch
from ratpg.rl.envs import VecEnv, make_vec
from ratpg.rl.envs.vec_env import stored_dtype
from ratpg.rl.policy import ActorCritic
from ratpg.rl.rollout import Rollout, collect
from ratpg.rl.spec import PolicySpec

STEPS, ENVS = 30, 4


def acted(
    dtype: str = "float64", hidden: tuple[int, ...] = (8,), **options: object
) -> tuple[VecEnv, ActorCritic, Rollout]:
    """A second rollout, for which the statistics are those of the first."""
    envs = make_vec("OddConstants-v0", ENVS, seed=0, backend="gymnasium", options={"dtype": dtype})
    torch.manual_seed(0)
    policy = ActorCritic(PolicySpec.from_spaces(envs.observation_space, envs.action_space, hidden=hidden, **options))
    torch.nn.init.normal_(policy.actor.head.weight)  # so that actions depend on observations
    memory, generator = policy.new_memory(ENVS), torch.Generator().manual_seed(0)
    first = collect(policy, envs, STEPS, generator, memory)
    policy.observe(first.observations[:-1][first.valid])
    return envs, policy, collect(policy, envs, STEPS, generator, memory)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_constants_are_zero_and_the_rest_has_its_own_scale(dtype: str) -> None:
    """In single precision some of the constants would be normalised to ±2, as the mean is rounded otherwise."""
    _, policy, rollout = acted(dtype)
    normalized = policy.normalize(rollout.observations)
    assert rollout.observations.dtype == getattr(torch, dtype)
    assert normalized.dtype == torch.float32
    assert normalized[..., :8].abs().max() < 1e-4
    assert 0.5 < normalized[..., 8].std() < 2


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_actor_sees_to_the_bit_what_learning_sees(dtype: str) -> None:
    _, policy, rollout = acted(dtype)
    noise, actions = policy.draw_noise((STEPS, ENVS), torch.Generator()), policy.empty_actions((STEPS, ENVS))
    layers = policy.actor_layers()
    assert layers is not None
    actor = _PerceptronActor(policy, layers, noise, actions)
    rollout.observations[0, 0] = 1e300 if dtype == "float64" else 1e38
    learnt_from = policy.normalize(rollout.observations)
    for step in range(STEPS):
        actor(step, slice(0, ENVS), rollout.observations[step].numpy())
        assert torch.equal(actor._buffers[ENVS][1], learnt_from[step])


@pytest.mark.parametrize("kind", ["mlp", "modules", "lstm"])
def test_actions_have_the_log_probability_that_they_were_sampled_with(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And an environment that writes into its action does not change what is learnt from."""
    if kind == "modules":
        monkeypatch.setattr(ActorCritic, "actor_layers", lambda self: None)
    _, policy, rollout = acted(lstm=4 if kind == "lstm" else None)
    again = torch.Generator().manual_seed(0)
    policy.draw_noise((STEPS, ENVS), again)
    noise = policy.draw_noise((STEPS, ENVS), again)
    assert rollout.actions.abs().max() < 100
    if kind == "lstm":
        return
    batch = make_batch(policy, rollout, rollout.rewards, 0.9, 0.9)
    kept = rollout.valid.flatten().nonzero().squeeze(1)[: len(batch)]
    expected = torch.distributions.Normal(0, 1).log_prob(noise).sum(-1).flatten()[kept]
    expected = expected - policy.actor.log_std.value.detach().sum()
    assert_close(batch.log_prob, expected, rtol=1e-4, atol=1e-4)


def test_evaluation_and_export_see_what_acting_saw(tmp_path: Path) -> None:
    envs, policy, rollout = acted()
    seen = policy.normalize(rollout.observations[-1])
    expected = policy.actor(seen).mode().detach()
    assert expected.std() > 0.1
    assert envs.observation.dtype == torch.float64
    assert_close(torch.from_numpy(policy.act(envs.observation)), expected)
    onnx_program(policy).save(tmp_path / "policy.onnx", external_data=False)
    session = onnxruntime.InferenceSession(tmp_path / "policy.onnx")
    (action,) = session.run(["action"], {"observation": np.concatenate(envs.observations)})
    assert_close(torch.from_numpy(action), expected)


def test_a_policy_trained_on_single_precision_is_shown_single_precision() -> None:
    """Another simulator may give the same observations in double: 6371.009 is not what was learnt to be zero."""
    _, policy, rollout = acted("float32")
    double = np.append(odd_envs.CONSTANTS, 0.5)
    given = policy.normalize(torch.from_numpy(double)[None])
    assert_close(given, policy.normalize(torch.from_numpy(double.astype(np.float32))[None]), rtol=0, atol=0)
    assert given[:, :8].abs().max() < 1e-4
    assert rollout.observations.dtype == torch.float32


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("uint8", "uint8"),
        *((small, "float32") for small in ("bool", "int8", "int16", "uint16", "float16", "float32")),
        *((large, "float64") for large in ("int32", "int64", "uint32", "float64", "longdouble")),
    ],
)
def test_observations_are_kept_without_loss(given: str, kept: str) -> None:
    assert stored_dtype(np.dtype(given)) == np.dtype(kept)


def test_both_actors_take_what_is_kept() -> None:
    """The modules' path and the fast one give the same actions at values that float32 cannot hold."""
    _, policy, rollout = acted()
    sampled = []
    for kind in (_ModuleActor, _PerceptronActor):
        noise, actions = policy.draw_noise((1, ENVS), torch.Generator()), policy.empty_actions((1, ENVS))
        layers = (policy.actor_layers(),) if kind is _PerceptronActor else ()
        kind(policy, *layers, noise, actions)(0, slice(0, ENVS), rollout.observations[3].numpy())
        sampled.append(actions)
    assert_close(sampled[0], sampled[1])
