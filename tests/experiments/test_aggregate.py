"""The interquartile mean against its definition, and what is set beside the paper's figures."""

import numpy as np
import pytest

import suite
from aggregate import interquartile_mean, interval
from published import POSTER, TASKS, mean_of, task_of


def test_it_is_the_mean_of_the_middle_half() -> None:
    assert interquartile_mean({"a": [0.0, 3.0, 5.0, 100.0], "b": [1.0, 2.0, 4.0, -50.0]}) == np.mean([1, 2, 3, 4])
    assert interquartile_mean({"a": [7.0]}) == 7.0


def test_the_interval_holds_what_it_is_of_and_narrows_with_more_runs() -> None:
    rng = np.random.default_rng(0)
    widths = []
    for runs in (5, 80):
        scores = {task: rng.normal(level, 0.3, runs).tolist() for task, level in (("a", 1.0), ("b", 1.2))}
        low, high = interval(scores)
        assert low < interquartile_mean(scores) < high
        widths.append(high - low)
    assert widths[1] < widths[0] / 2


def test_of_three_runs_a_task_the_interval_holds_the_true_value_three_times_in_four() -> None:
    # The means and spreads are PPO's in results/mujoco, in units of the paper's; docs/evidence.md says so.
    rng = np.random.default_rng(1)
    levels, errors = (1.17, 1.41, 1.86, 2.78, 1.78), (0.102, 0.059, 0.457, 0.204, 0.094)

    def draw(runs: int) -> dict[str, list[float]]:
        return {str(k): rng.normal(levels[k], 3**0.5 * errors[k], runs).tolist() for k in range(5)}

    true = np.mean([interquartile_mean(draw(3)) for _ in range(2000)])
    held = [low <= true <= high for low, high in (interval(draw(3)) for _ in range(400))]
    assert 0.68 < np.mean(held) < 0.82


def test_a_task_is_not_made_up_for_by_another() -> None:
    # Each task keeps its number of runs in every sample, so that what differs between tasks alone widens nothing.
    assert interval({"a": [1.0, 1.0], "b": [5.0, 5.0]}) == (3.0, 3.0)


def test_the_papers_means_are_read_with_their_sign() -> None:
    assert mean_of("Sophia", "Ant") == -7.0
    assert mean_of("PPO", "HalfCheetah") == 4146.0
    assert all(len(cells) == len(TASKS) for cells in POSTER.values())
    assert (task_of("Ant-v5"), task_of("HumanoidStandup-v4")) == ("Ant", "HumanoidStandup")


def _rows(name: str, tasks: tuple[str, ...], seeds: int) -> list[dict[str, str]]:
    return [
        {"name": name, "env": f"{task}-v4", "seed": str(seed), "return": str(2 * mean_of("PPO", task))}
        for task in tasks
        for seed in range(seeds)
    ]


def test_configurations_with_every_task_are_aggregated() -> None:
    rows = _rows("whole", suite.COMPARED, 2) + _rows("part", suite.COMPARED[:3], 2) + _rows("once", suite.COMPARED, 1)
    whole, once = suite.aggregated(rows)
    assert (whole["run"], whole["interquartile mean"], whole["95 % interval"]) == ("whole", "2.00", "2.00 to 2.00")
    assert (once["run"], once["95 % interval"]) == ("once", "–")


def test_two_versions_of_a_task_are_never_one_figure() -> None:
    rows = _rows("mixed", suite.COMPARED, 1)
    rows.append(rows[0] | {"env": rows[0]["env"].replace("v4", "v5")})
    with pytest.raises(ValueError, match="mixed has two versions"):
        suite.aggregated(rows)


def test_ours_stands_beside_the_papers() -> None:
    rows = _rows("ours", ("Ant", "Hopper"), 2)
    rows += [row | {"env": "Ant-v5", "return": "1"} for row in rows[:2]]
    ours, *papers = suite.beside_paper(rows)
    assert [row["run"] for row in papers] == [f"paper's {name}, 10M" for name in POSTER]
    assert list(ours) == ["run", "Hopper-v4", "Ant-v4", "Ant-v5"]
    assert (ours["Ant-v4"], ours["Ant-v5"]) == (f"{2 * mean_of('PPO', 'Ant'):.0f} ± 0 (2)", "1.0 ± 0.0 (2)")
    assert (papers[0]["Ant-v4"], papers[0]["Ant-v5"]) == ("–", "2926.6 ± 353.1")


@pytest.mark.parametrize("name", ["mujoco_", "mujoco_paper", "mujoco_long"])
def test_no_training_of_a_suite_stands_there_twice(name: str) -> None:
    runs = __import__(name).RUNS
    assert len({(run.fingerprint, run.env, run.seed) for run in runs}) == len(runs)
    assert len({run.directory for run in runs}) == len(runs)
