"""`collect` against episodes known in advance, and its refusal of experience that is not finite."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from ratpg.rl.batch import make_batch
from ratpg.rl.envs import VecEnv, make_vec
from ratpg.rl.policy import ActorCritic
from ratpg.rl.rollout import NonFiniteExperience, Rollout, collect
from ratpg.rl.spec import PolicySpec
from toy_envs import FAULT_STEP, LENGTH

STEPS = 10


def policy_for(envs: VecEnv) -> ActorCritic:
    torch.manual_seed(0)
    return ActorCritic(PolicySpec.from_spaces(envs.observation_space, envs.action_space, hidden=(8,)))


def collect_toy(env_id: str, steps: int = STEPS, num_envs: int = 2) -> tuple[ActorCritic, Rollout]:
    envs = make_vec(env_id, num_envs, seed=0, backend="gymnasium")
    policy = policy_for(envs)
    return policy, collect(policy, envs, steps, torch.Generator().manual_seed(0))


# Three paid steps, then one that only resets: rows of (reward, ends, valid) until the rollout's ten steps are full.
REWARDS = [1, 2, 3, 0, 1, 2, 3, 0, 1, 2]
ENDS = [0, 0, 1, 0, 0, 0, 1, 0, 0, 0]
VALID = [1, 1, 1, 0, 1, 1, 1, 0, 1, 1]
EPISODE = [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2]
TAKEN = [0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2]


@pytest.mark.parametrize("env_id", ["ToyTerminating-v0", "ToyTruncating-v0"])
def test_a_rollout_is_the_episodes_computed_by_hand(env_id: str) -> None:
    _, rollout = collect_toy(env_id)
    for n in range(2):
        assert rollout.rewards[:, n].tolist() == REWARDS
        assert rollout.valid[:, n].tolist() == [bool(v) for v in VALID]
        assert rollout.done[:, n].tolist() == [bool(e) for e in ENDS]
        assert rollout.observations[:, n, 0].tolist() == EPISODE
        assert rollout.observations[:, n, 1].tolist() == TAKEN


@pytest.mark.parametrize("env_id, terminates", [("ToyTerminating-v0", True), ("ToyTruncating-v0", False)])
def test_termination_and_truncation_are_told_apart(env_id: str, terminates: bool) -> None:
    _, rollout = collect_toy(env_id)
    ended, other = rollout.terminated, rollout.truncated
    if not terminates:
        ended, other = other, ended
    assert ended[:, 0].tolist() == [bool(e) for e in ENDS]
    assert not other.any()


def test_the_observation_after_an_end_is_the_true_final_one() -> None:
    _, rollout = collect_toy("ToyTruncating-v0")
    ends = rollout.done.nonzero()[:, 0]
    assert len(ends) == 4
    assert (rollout.observations[ends + 1, 0, 1] == LENGTH).all()


def test_a_rollout_goes_on_where_the_last_one_stopped() -> None:
    envs = make_vec("ToyTerminating-v0", 2, seed=0, backend="gymnasium")
    policy, generator = policy_for(envs), torch.Generator().manual_seed(0)
    first, second = collect(policy, envs, 3, generator), collect(policy, envs, 3, generator)
    assert first.done[-1].all()
    assert not second.valid[0].any()  # the end was the last rollout's business, the reset is this one's
    assert torch.equal(second.observations[0], first.observations[-1])
    assert second.rewards[:, 0].tolist() == [0, 1, 2]


def test_the_simulator_gets_the_sampled_actions_fitted_into_its_bounds() -> None:
    policy, rollout = collect_toy("ToyTerminating-v0")
    received = rollout.observations[1:, :, 2]
    sent = torch.from_numpy(policy.environment_actions(rollout.actions.flatten(0, 1))).view(STEPS, 2)
    assert_close(received[rollout.valid].float(), sent[rollout.valid])
    assert (received[~rollout.valid] == 0).all()  # an action is ignored where the step only resets
    assert (rollout.actions.abs() > 1).any()  # actions are kept as sampled, before clipping


def test_actions_are_samples_of_the_policy_from_the_generators_noise() -> None:
    policy, rollout = collect_toy("ToyTerminating-v0")
    noise = policy.draw_noise((STEPS, 2), torch.Generator().manual_seed(0))
    distribution = policy.actor(policy.normalize(rollout.observations[:-1]).flatten(0, 1)).detach()
    assert_close(rollout.actions, distribution.sample(noise.flatten(0, 1)).view_as(noise))


def test_shapes_and_types_are_those_documented() -> None:
    _, rollout = collect_toy("ToyTerminating-v0", steps=4, num_envs=3)
    assert rollout.observations.shape == (5, 3, 3)
    assert rollout.actions.shape == (4, 3, 1)
    assert rollout.observations.dtype == torch.float64  # as the environment gives them
    assert rollout.rewards.dtype == torch.float32
    for flag in (rollout.terminated, rollout.truncated, rollout.valid):
        assert flag.shape == (4, 3)
        assert flag.dtype == torch.bool


@pytest.mark.parametrize("what", ["reward", "observation"])
def test_experience_that_is_not_finite_is_refused_by_environment_and_step(what: str) -> None:
    with pytest.raises(NonFiniteExperience) as caught:
        collect_toy(f"ToyNaN{what.capitalize()}-v0", steps=FAULT_STEP + 5)
    message = str(caught.value)
    assert what in message
    assert re.search(r"environment 1\b", message)
    # Reward and observation come from the same step of the simulator, so the number is the same.
    assert re.search(rf"step {FAULT_STEP}\b", message)


@pytest.mark.parametrize("what", ["reward", "observation"])
def test_a_fault_in_the_last_step_of_a_rollout_is_seen(what: str) -> None:
    collect_toy(f"ToyNaN{what.capitalize()}-v0", steps=FAULT_STEP)
    with pytest.raises(NonFiniteExperience, match="environment 1"):
        collect_toy(f"ToyNaN{what.capitalize()}-v0", steps=FAULT_STEP + 1)


def test_an_infinite_reward_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    envs = make_vec("ToyTerminating-v0", 2, seed=0, backend="gymnasium")
    receive = envs.receive

    def overflow(group: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        reward, terminated, truncated = receive(group)
        return np.array([reward[0], np.inf]), terminated, truncated

    monkeypatch.setattr(envs, "receive", overflow)
    with pytest.raises(NonFiniteExperience, match=r"environment 1 .*step 0"):
        collect(policy_for(envs), envs, 4, torch.Generator())


def image_policy(envs: VecEnv, **options: object) -> ActorCritic:
    torch.manual_seed(0)
    return ActorCritic(PolicySpec.from_spaces(envs.observation_space, envs.action_space, **options))


def test_features_kept_while_acting_are_those_of_the_observations() -> None:
    """With them a batch is the same as with those of another pass over the rollout."""
    envs = make_vec("ToyToldImage-v0", 2, seed=0, backend="gymnasium")
    policy = image_policy(envs, network="nature-cnn", shared=True)
    rollout = collect(policy, envs, STEPS, torch.Generator().manual_seed(0))
    seen = policy.normalize(rollout.observations[:-1]).flatten(0, 1)
    assert rollout.features is not None
    assert_close(rollout.features.flatten(0, 1), policy.actor.body(seen).detach())
    batch = make_batch(policy, rollout, rollout.rewards, 0.9, 0.8)
    again = make_batch(policy, replace(rollout, features=None), rollout.rewards, 0.9, 0.8)
    for name in ("log_prob", "advantages", "returns"):
        assert_close(getattr(batch, name), getattr(again, name))
    assert batch.advantages.std() > 0


@pytest.mark.parametrize(
    "options",
    [{"network": "nature-cnn"}, {"shared": True}, {"network": "nature-cnn", "shared": True, "lstm": 4}],
    ids=["separate", "mlp", "lstm"],
)
def test_other_policies_features_are_not_kept(options: dict[str, object]) -> None:
    envs = make_vec("ToyToldImage-v0", 2, seed=0, backend="gymnasium")
    policy = image_policy(envs, hidden=(8,), **options)
    rollout = collect(policy, envs, 2, torch.Generator().manual_seed(0), policy.new_memory(2))
    assert rollout.features is None
