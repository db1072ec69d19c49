"""Making environments: which ids, on which backend, with which shapes and seeds."""

import contextlib
import os
import sys
from concurrent.futures import ThreadPoolExecutor

import gymnasium as gym
import numpy as np
import pytest
import torch

from ratpg.rl.envs import UnknownEnvironment, VecEnv, envpool, make_vec
from ratpg.rl.envs.envpool import NICENESS, SPLIT, EnvPoolEnv
from ratpg.rl.envs.gymnasium import GymnasiumEnv
from ratpg.rl.envs.vec_env import UnsupportedSpace

WIDTHS = {
    "Ant-v4": 27,
    "Ant-v5": 105,
    "HalfCheetah-v4": 17,
    "HalfCheetah-v5": 17,
    "Hopper-v4": 11,
    "Hopper-v5": 11,
    "Humanoid-v4": 376,
    "Humanoid-v5": 348,
    "HumanoidStandup-v4": 376,
    "HumanoidStandup-v5": 348,
    "Swimmer-v4": 8,
    "Swimmer-v5": 8,
    "Walker2d-v4": 17,
    "Walker2d-v5": 17,
}
CLASSIC = {"CartPole-v1": 4, "Pendulum-v1": 3, "MountainCar-v0": 2, "Acrobot-v1": 6, "MountainCarContinuous-v0": 2}


def _may_yield() -> bool:
    """Whether a thread is allowed to, which is tried by one that ends."""
    with ThreadPoolExecutor(1) as pool:
        batch = pool.submit(lambda: os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0)))
        return batch.exception() is None


def _claims() -> dict[int, tuple[int, int]]:
    """Scheduling policy and niceness of each of our threads."""
    claims = {}
    for thread in map(int, os.listdir("/proc/self/task")):
        with contextlib.suppress(ProcessLookupError):  # it has ended
            claims[thread] = os.sched_getscheduler(thread), os.getpriority(os.PRIO_PROCESS, thread)
    return claims


@pytest.mark.skipif(sys.platform != "linux", reason="priorities are a thread's own on Linux alone")
@pytest.mark.parametrize("num_envs", [2, 2 * SPLIT])
def test_the_simulators_threads_come_last_where_there_are_halves(num_envs: int) -> None:
    if not _may_yield():
        pytest.skip("scheduling is forbidden here")
    before = _claims()
    envs = make_vec("Hopper-v4", num_envs, seed=0, backend="envpool", num_threads=2)
    after = _claims()
    assert {thread: after[thread] for thread in before if thread in after}.items() <= before.items()
    policy, niceness = before[os.getpid()]
    made = [claim for thread, claim in after.items() if thread not in before]
    yielding = [claim for claim in made if claim == (os.SCHED_BATCH, min(niceness + NICENESS, 19))]
    if num_envs < 2 * SPLIT:
        assert len(made) >= 2 and set(made) == {(policy, niceness)}
    else:
        assert len(yielding) >= 4
    envs.close()


@pytest.mark.parametrize("env_id", WIDTHS | CLASSIC)
def test_both_backends_make_the_same_spaces(env_id: str) -> None:
    width = (WIDTHS | CLASSIC)[env_id]
    both: list[VecEnv] = [make_vec(env_id, 2, seed=0, backend=backend) for backend in ("envpool", "gymnasium")]
    for envs in both:
        assert envs.observation.shape == (2, width)
        assert envs.observation.dtype == (torch.float64 if env_id in WIDTHS else torch.float32)
        assert envs.observation_space.shape == (width,)
        assert not envs.done.any()
        envs.close()
    fast, reference = both
    assert type(fast.action_space) is type(reference.action_space)
    if isinstance(fast.action_space, gym.spaces.Discrete):
        assert fast.action_space.n == reference.action_space.n
    else:
        np.testing.assert_allclose(fast.action_space.low, reference.action_space.low)
        np.testing.assert_allclose(fast.action_space.high, reference.action_space.high)


def test_auto_takes_envpool_where_it_has_the_environment() -> None:
    assert isinstance(make_vec("CartPole-v1", 1, seed=0), EnvPoolEnv)


def test_auto_takes_gymnasium_for_an_id_registered_there_alone() -> None:
    assert isinstance(make_vec("ToyTerminating-v0", 1, seed=0), GymnasiumEnv)


def test_gymnasium_can_be_forced() -> None:
    assert isinstance(make_vec("CartPole-v1", 1, seed=0, backend="gymnasium"), GymnasiumEnv)


def test_an_id_with_a_module_imports_the_module() -> None:
    assert isinstance(make_vec("toy_envs:ToyTerminating-v0", 1, seed=0), GymnasiumEnv)


@pytest.mark.parametrize("backend", ["auto", "envpool", "gymnasium"])
def test_an_unknown_id_is_refused_with_the_nearest_names(backend: str) -> None:
    with pytest.raises(UnknownEnvironment, match=r"'Hoper-v4'.*did you mean Hopper-v4"):
        make_vec("Hoper-v4", 2, seed=0, backend=backend)


def test_an_id_like_nothing_known_is_refused_with_advice() -> None:
    with pytest.raises(UnknownEnvironment, match=r"'qqqqqqqq'.*package"):
        make_vec("qqqqqqqq", 2, seed=0)


def test_an_unknown_module_is_refused() -> None:
    with pytest.raises(UnknownEnvironment, match="no_such_module"):
        make_vec("no_such_module:Thing-v0", 2, seed=0)


def test_envpool_refuses_an_id_of_gymnasiums_alone() -> None:
    with pytest.raises(UnknownEnvironment, match="ToyTerminating-v0"):
        make_vec("ToyTerminating-v0", 2, seed=0, backend="envpool")


@pytest.mark.parametrize("env_id", ["Backgammon-v1", "TicTacToe-v1"])
def test_an_environment_of_several_players_is_refused(env_id: str) -> None:
    with pytest.raises(UnsupportedSpace, match=rf"{env_id} has 2 players"):
        make_vec(env_id, 2, seed=0)


def test_without_envpool_gymnasium_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ratpg.rl.envs.envpool.envpool", None)
    assert isinstance(make_vec("CartPole-v1", 1, seed=0), GymnasiumEnv)
    with pytest.raises(UnknownEnvironment, match="EnvPool is not installed"):
        make_vec("CartPole-v1", 1, seed=0, backend="envpool")


def first_observations(env_id: str, backend: str, seed: int) -> torch.Tensor:
    envs = make_vec(env_id, 3, seed=seed, backend=backend)
    envs.close()
    return envs.observation


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1", "Hopper-v4"])
@pytest.mark.parametrize("backend", ["envpool", "gymnasium"])
def test_every_environment_is_seeded(env_id: str, backend: str) -> None:
    observations = first_observations(env_id, backend, seed=3)
    assert torch.equal(first_observations(env_id, backend, seed=3), observations)
    assert len(observations.unique(dim=0)) == 3
    # Neighbouring seeds share no environment, either.
    assert len(torch.cat([observations, first_observations(env_id, backend, seed=4)]).unique(dim=0)) == 6


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Hopper-v4"])
def test_envpools_results_do_not_depend_on_its_number_of_threads(env_id: str) -> None:
    trajectories = []
    for threads in (1, 3):
        envs = make_vec(env_id, 3, seed=0, backend="envpool", num_threads=threads)
        actions = np.array([envs.action_space.sample()] * 3) * 0
        rewards = []
        for _ in range(50):
            rewards.append(envs.step(actions)[0])
        trajectories.append((envs.observation, np.array(rewards)))
        envs.close()
    assert torch.equal(trajectories[0][0], trajectories[1][0])
    np.testing.assert_array_equal(trajectories[0][1], trajectories[1][1])


def test_envpools_results_do_not_depend_on_its_being_split(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (120, 5, 3))  # long enough for episodes to end
    trajectories, groups = [], []
    for least in (1, 3):
        monkeypatch.setattr(envpool, "SPLIT", least)
        envs = make_vec("Hopper-v4", 5, seed=0, backend="envpool")
        groups.append(envs.groups)
        trajectories.append([(envs.step(a), envs.done.copy(), envs.observation) for a in actions])
        envs.close()
    assert groups == [(slice(0, 2), slice(2, 5)), (slice(0, 5),)]
    ended = np.zeros(5, dtype=bool)
    for (split, split_done, split_observation), (whole, done, observation) in zip(*trajectories, strict=True):
        np.testing.assert_array_equal(np.array(split), np.array(whole))
        np.testing.assert_array_equal(split_done, done)
        assert torch.equal(split_observation, observation)
        ended |= done
    assert ended.any()


@pytest.mark.parametrize("env_id", ["Humanoid-v4", "HumanoidStandup-v4"])
@pytest.mark.parametrize("backend", ["envpool", "gymnasium"])
def test_the_contact_forces_of_v4_humanoids_are_not_all_zero(env_id: str, backend: str) -> None:
    envs = make_vec(env_id, 2, seed=0, backend=backend)
    touched = np.zeros(2, dtype=bool)
    for _ in range(20):
        envs.step(np.zeros((2, 17), dtype=np.float32))
        touched |= (envs.observation[:, -84:] != 0).any(1).numpy()
    envs.close()
    assert touched.all()


@pytest.mark.parametrize("backend", ["envpool", "gymnasium"])
def test_an_observation_kept_is_not_overwritten_by_the_next_step(backend: str) -> None:
    envs = make_vec("CartPole-v1", 2, seed=0, backend=backend)
    kept, copies = [], []
    for t in range(8):
        kept.append(envs.observation)
        copies.append(envs.observation.clone())
        envs.step(np.array([t % 2, 1]))
    envs.close()
    assert all(torch.equal(a, b) for a, b in zip(kept, copies, strict=True))
    assert not torch.equal(kept[0], kept[1])


@pytest.mark.parametrize("backend", ["envpool", "gymnasium"])
def test_discrete_observations_are_one_hot(backend: str) -> None:
    envs = make_vec("FrozenLake-v1", 3, seed=0, backend=backend)
    first = torch.zeros(3, 16)
    first[:, 0] = 1
    assert envs.observation_space.shape == (16,)
    assert torch.equal(envs.observation, first)
    for _ in range(20):
        envs.step(np.full(3, 2))
        assert envs.observation.sum(1).tolist() == [1, 1, 1]
    assert not torch.equal(envs.observation, first)
    envs.close()
