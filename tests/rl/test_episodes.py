"""Episode returns and lengths, summed over rollouts by hand."""

import math

import torch

from ratpg.rl.episodes import EpisodeTracker
from ratpg.rl.rollout import Rollout


def rollout(rewards: list[list[float]], done: list[list[int]], valid: list[list[int]]) -> Rollout:
    """Rewards, ends and validity ``[T, N]``; ends alternate between terminated and truncated."""
    ends = torch.tensor(done, dtype=torch.bool)
    by_time_limit = torch.arange(len(ends))[:, None] % 2 == 1
    nothing = torch.zeros(0)
    return Rollout(
        observations=nothing,
        actions=nothing,
        rewards=torch.tensor(rewards),
        terminated=ends & ~by_time_limit,
        truncated=ends & by_time_limit,
        valid=torch.tensor(valid, dtype=torch.bool),
        cut=torch.zeros_like(ends),
    )


def column(*values: float) -> list[list[float]]:
    return [[value] for value in values]


def ones(count: int) -> list[list[int]]:
    return [[1]] * count


def test_an_episode_that_spans_rollouts_is_one_episode() -> None:
    tracker = EpisodeTracker(1)
    tracker.update(rollout(column(1, 2), [[0], [0]], ones(2)))
    assert tracker.finished == 0
    tracker.update(rollout(column(3, 0), [[1], [0]], [[1], [0]]))
    assert (tracker.finished, list(tracker.returns), list(tracker.lengths)) == (1, [6.0], [3])


def test_the_reset_step_belongs_to_no_episode() -> None:
    tracker = EpisodeTracker(1)
    tracker.update(rollout(column(5, 0, 7, 1), [[1], [0], [0], [1]], [[1], [0], [1], [1]]))
    assert (list(tracker.returns), list(tracker.lengths)) == ([5.0, 8.0], [1, 2])


def test_environments_are_kept_apart() -> None:
    tracker = EpisodeTracker(2)
    tracker.update(rollout([[1.0, 10.0], [1.0, 10.0], [0.0, 10.0]], [[0, 0], [1, 0], [0, 1]], [[1, 1], [1, 1], [0, 1]]))
    assert (list(tracker.returns), list(tracker.lengths)) == ([2.0, 30.0], [2, 3])


def test_means_are_of_the_last_episodes_only() -> None:
    tracker = EpisodeTracker(1, window=2)
    for value in (100.0, 1.0, 3.0):
        tracker.update(rollout(column(value), ones(1), ones(1)))
    assert tracker.finished == 3
    assert tracker.return_mean() == 2.0
    assert tracker.length_mean() == 1.0


def test_the_default_window_is_a_hundred_episodes() -> None:
    tracker = EpisodeTracker(1)
    for value in range(150):
        tracker.update(rollout(column(float(value)), ones(1), ones(1)))
    assert tracker.return_mean() == sum(range(50, 150)) / 100


def test_means_are_nan_before_the_first_episode_ends() -> None:
    assert math.isnan(EpisodeTracker(1).return_mean())
    assert math.isnan(EpisodeTracker(1).length_mean())


def half_way() -> EpisodeTracker:
    tracker = EpisodeTracker(1)
    tracker.update(rollout(column(4, 0, 2), [[1], [0], [0]], [[1], [0], [1]]))
    return tracker


def finish(tracker: EpisodeTracker) -> tuple[list[float], list[int], int]:
    tracker.update(rollout(column(1), ones(1), ones(1)))
    return list(tracker.returns), list(tracker.lengths), tracker.finished


def test_a_restored_tracker_goes_on_where_it_was() -> None:
    tracker, restored = half_way(), EpisodeTracker(1)
    restored.load_state_dict(tracker.state_dict())
    assert finish(restored) == finish(tracker) == ([4.0, 3.0], [1, 2], 2)


def test_the_state_is_a_copy() -> None:
    tracker = half_way()
    state = tracker.state_dict()
    finish(tracker)
    restored = EpisodeTracker(1)
    restored.load_state_dict(state)
    assert finish(restored) == ([4.0, 3.0], [1, 2], 2)


def test_forgotten_episodes_under_way_do_not_count() -> None:
    tracker = half_way()
    tracker.forget_unfinished()
    assert finish(tracker) == ([4.0, 1.0], [1, 1], 2)
