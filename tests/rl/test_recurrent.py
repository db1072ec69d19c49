"""Recurrent policies: what is remembered, where it is forgotten, and that updates see what acting saw."""

import torch
from torch.testing import assert_close

from ratpg.rl.advantage import gae
from ratpg.rl.envs import VecEnv, make_vec
from ratpg.rl.policy import ActorCritic
from ratpg.rl.rollout import collect
from ratpg.rl.sequence_batch import SequenceBatch, make_sequence_batch
from ratpg.rl.spec import PolicySpec

STEPS, ENVS, GAMMA, LAM = 6, 3, 0.9, 0.8


def make(shared: bool = False) -> tuple[VecEnv, ActorCritic]:
    envs = make_vec("ToyTerminating-v0", ENVS, seed=0)
    torch.manual_seed(0)
    options = {"hidden": (8,), "lstm": 5, "shared": shared}
    return envs, ActorCritic(PolicySpec.from_spaces(envs.observation_space, envs.action_space, **options))


def by_hand(policy: ActorCritic, body: torch.nn.Module, observations: torch.Tensor, reset: list[bool]) -> torch.Tensor:
    """Features of one environment's observations, one after the other, forgetting after each step that only reset."""
    state, features = torch.zeros(1, 10), []
    for t, observation in enumerate(observations):
        if t > 0 and reset[t - 1]:
            state = torch.zeros(1, 10)
        hidden, cell = body.cell(body.features(policy.normalize(observation[None])), state.chunk(2, -1))
        state = torch.cat([hidden, cell], -1)
        features.append(hidden[0])
    return torch.stack(features)


@torch.no_grad()
def compare(shared: bool) -> None:
    envs, policy = make(shared)
    memory, generator = policy.new_memory(ENVS), torch.Generator().manual_seed(0)
    assert memory is not None
    rollouts, batches = [], []
    for _ in range(3):  # nine steps and their resets: episodes begin and end within rollouts and across them
        rollouts.append(collect(policy, envs, STEPS, generator, memory))
        batches.append(make_sequence_batch(policy, rollouts[-1], rollouts[-1].rewards, GAMMA, LAM, memory))
    observations = torch.cat([r.observations[:-1] for r in rollouts] + [rollouts[-1].observations[-1:]])
    valid, actions = (torch.cat([getattr(r, name) for r in rollouts]) for name in ("valid", "actions"))
    assert not valid.all()
    for env in range(ENVS):
        resets = (~valid[:, env]).tolist()
        acting = by_hand(policy, policy.actor.body, observations[:-1, env], resets)
        valuing = by_hand(policy, policy.critic[0], observations[:, env], resets)
        values = policy.value_head.denormalize(policy.value_head(valuing)).squeeze(1)
        expected = policy.actor.distribution(policy.actor.head(acting)).log_prob(actions[:, env])
        for number, (rollout, batch) in enumerate(zip(rollouts, batches, strict=True)):
            span = slice(number * STEPS, (number + 1) * STEPS)
            part = batch[torch.tensor([env])]
            kept = valid[span, env]
            assert_close(part.log_prob, expected[span][kept])
            assert_close(part.actions, actions[span, env][kept])
            flags = (getattr(rollout, n)[:, env, None] for n in ("terminated", "truncated", "valid"))
            its = values[span.start : span.stop + 1, None]
            advantages = gae(rollout.rewards[:, env, None], its, *flags, GAMMA, LAM)
            assert_close(part.advantages, advantages[kept, 0])
            assert_close(part.returns, (advantages + its[:-1])[kept, 0])


@torch.no_grad()
def test_the_first_rows_are_some_environments_or_the_first_steps_of_one() -> None:
    envs, policy = make()
    memory = policy.new_memory(ENVS)
    assert memory is not None
    rollout = collect(policy, envs, STEPS, torch.Generator().manual_seed(0), memory)
    batch = make_sequence_batch(policy, rollout, rollout.rewards, GAMMA, LAM, memory)
    for rows, env, steps in ((2 * STEPS + 1, [0, 1], STEPS), (4, [0], 4), (10**6, [0, 1, 2], STEPS)):
        found, whole = batch.first(rows), batch[torch.tensor(env)]
        count = int(rollout.valid[:steps, env].sum())
        assert len(found) == count == len(found.observations.kept.nonzero())
        assert_close(policy.actor(found.observations).log_prob(found.actions), whole.log_prob[:count])
        for name in ("log_prob", "advantages", "returns", "actions"):
            assert torch.equal(getattr(found, name), getattr(whole, name)[:count])


def test_updates_see_what_acting_saw_across_rollouts_and_resets() -> None:
    compare(shared=False)


def test_so_they_do_where_layers_are_shared() -> None:
    compare(shared=True)


def test_minibatches_are_whole_environments_and_cover_all_rows_once() -> None:
    envs, policy = make()
    memory, generator = policy.new_memory(ENVS), torch.Generator().manual_seed(0)
    assert memory is not None
    rollout = collect(policy, envs, STEPS, generator, memory)
    batch = make_sequence_batch(policy, rollout, rollout.rewards, GAMMA, LAM, memory)
    assert isinstance(batch, SequenceBatch)
    parts = batch.parts(2, generator)
    rows = torch.cat([batch.rows(part) for part in parts])
    assert sorted(rows.tolist()) == list(range(len(batch)))
    for part in parts:
        with torch.no_grad():
            again = policy.actor(batch[part].observations).log_prob(batch[part].actions)
        assert_close(again, batch.log_prob[batch.rows(part)])


def test_acting_remembers() -> None:
    _, policy = make()
    memory, other = policy.new_memory(2), policy.new_memory(2)
    assert memory is not None and other is not None
    first, second = torch.randn(2, 2, 3, generator=torch.Generator().manual_seed(0))
    policy.act(first, memory)
    remembering, fresh = policy.act(second, memory), policy.act(second, other)
    assert (remembering != fresh).any()
