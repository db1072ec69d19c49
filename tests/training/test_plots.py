"""Learning curves: groups, means and bands."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure

from ratpg.training import plots
from ratpg.training.plots import learning_curve, plot_curves, plot_runs


def make_run(directory: Path, returns: list[float], env: str = "Hopper-v4", **more: object) -> Path:
    """A run folder with a row every 100 steps."""
    directory.mkdir()
    rows = [f"{100 * (i + 1)},{value}" for i, value in enumerate(returns)]
    (directory / "metrics.csv").write_text("\n".join(["timesteps,episode_return_mean", *rows]) + "\n")
    (directory / "config.json").write_text(json.dumps({"env": env, "algo": "rat", "preset": "default"} | more))
    return directory


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures drawn, looked at instead of their files."""
    drawn: list[Figure] = []
    original = plt.subplots

    def subplots(*args: object, **options: object) -> object:
        figure, axes = original(*args, **options)
        drawn.append(figure)
        return figure, axes

    monkeypatch.setattr(plots.plt, "subplots", subplots)
    return drawn


def test_the_curve_begins_with_the_first_finished_episode(tmp_path: Path) -> None:
    steps, returns = learning_curve(make_run(tmp_path / "a", [float("nan"), 5.0, 7.0]))
    assert steps.tolist() == [200, 300]
    assert returns.tolist() == [5.0, 7.0]


def test_a_run_without_a_finished_episode_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no episode has finished"):
        learning_curve(make_run(tmp_path / "a", [float("nan")]))


def test_png_and_svg_are_written(tmp_path: Path) -> None:
    written = plot_runs([make_run(tmp_path / "a", [1.0, 2.0])], tmp_path / "figure")
    assert written == [tmp_path / "figure.png", tmp_path / "figure.svg"]
    assert all(path.stat().st_size > 1000 for path in written)


def test_a_name_with_a_dot_keeps_all_of_itself(tmp_path: Path) -> None:
    written = plot_runs([make_run(tmp_path / "a", [1.0, 2.0])], tmp_path / "hopper-0.3M")
    assert written == [tmp_path / "hopper-0.3M.png", tmp_path / "hopper-0.3M.svg"]


def test_one_panel_an_environment_and_one_line_an_algorithm(tmp_path: Path, figures: list[Figure]) -> None:
    runs = [
        make_run(tmp_path / "a", [1.0, 2.0], env="Hopper-v4"),
        make_run(tmp_path / "b", [1.0, 2.0], env="Hopper-v4", preset="paper"),
        make_run(tmp_path / "e", [1.0, 2.0], env="Hopper-v4", preset="paper", shared=True),
        make_run(tmp_path / "f", [1.0, 2.0], env="Hopper-v4", shared=False),
        make_run(tmp_path / "g", [1.0, 2.0], env="Hopper-v4", algo="ppo", shared=True),
        make_run(tmp_path / "c", [1.0, 2.0], env="Ant-v4"),
        make_run(tmp_path / "d", [1.0, 3.0], env="Ant-v4"),
    ]
    plot_runs(runs, tmp_path / "figure")
    ant, hopper = figures[0].axes
    assert (ant.get_title(), hopper.get_title()) == ("Ant-v4", "Hopper-v4")
    assert [text.get_text() for text in ant.get_legend().get_texts()] == ["rat, 2 runs"]
    assert [text.get_text() for text in hopper.get_legend().get_texts()] == [
        "ppo (shared)",
        "rat, 2 runs",
        "rat (paper)",
        "rat (paper, shared)",
    ]


def test_the_line_is_the_mean_over_runs_and_the_band_contains_it(tmp_path: Path, figures: list[Figure]) -> None:
    values = [[0.0, 10.0, 20.0], [2.0, 14.0, 26.0], [4.0, 12.0, 50.0]]
    plot_runs([make_run(tmp_path / str(i), returns) for i, returns in enumerate(values)], tmp_path / "figure")
    (axis,) = figures[0].axes
    (line,) = axis.get_lines()
    steps, mean = (np.asarray(data) for data in line.get_data())
    np.testing.assert_allclose(np.interp([100, 200, 300], steps, mean), np.mean(values, axis=0), rtol=1e-2)
    (band,) = axis.collections
    corners = band.get_paths()[0].vertices
    at_end = corners[np.isclose(corners[:, 0], 300)][:, 1]
    assert at_end.min() < np.mean([20, 26, 50]) < at_end.max()
    assert at_end.min() >= 20  # a mean of resampled runs is never outside of the runs
    assert at_end.max() <= 50


def test_panels_wrap_and_a_label_has_one_colour_in_all(tmp_path: Path, figures: list[Figure]) -> None:
    curve = (np.array([1.0, 2.0]), np.array([3.0, 4.0]))
    groups = {f"Env{index}": {"rat": [curve]} for index in range(5)} | {"Env1": {"ppo": [curve], "rat": [curve, curve]}}
    plot_curves(groups, tmp_path / "figure")
    axes = figures[0].axes
    assert [axis.get_title() for axis in axes] == ["Env0", "Env1", "Env2", "Env3", "Env4"]
    assert len({axis.get_position().y0 for axis in axes}) == 2
    lines = {(line.get_label().split(",")[0], line.get_color()) for axis in axes for line in axis.get_lines()}
    assert sorted(label for label, _ in lines) == ["ppo", "rat"]


def test_runs_that_agree_have_no_band(tmp_path: Path, figures: list[Figure]) -> None:
    plot_runs([make_run(tmp_path / name, [1.0, 2.0]) for name in "ab"], tmp_path / "figure")
    assert not figures[0].axes[0].collections


def test_runs_that_agree_at_first_and_differ_later_have_one(tmp_path: Path, figures: list[Figure]) -> None:
    plot_runs([make_run(tmp_path / "a", [1.0, 2.0]), make_run(tmp_path / "b", [1.0, 3.0])], tmp_path / "figure")
    assert len(figures[0].axes[0].collections) == 1


def test_runs_of_different_lengths_are_compared_where_both_are(tmp_path: Path, figures: list[Figure]) -> None:
    plot_runs([make_run(tmp_path / "a", [1.0, 2.0]), make_run(tmp_path / "b", [1.0, 2.0, 900.0])], tmp_path / "figure")
    beyond, line = figures[0].axes[0].get_lines()
    assert np.max(line.get_xdata()) == 200
    assert np.max(line.get_ydata()) == 2.0
    assert beyond.get_xdata().tolist() == [200, 300]


def test_runs_that_differ_in_more_than_the_seed_are_lines_of_their_own(tmp_path: Path, figures: list[Figure]) -> None:
    runs = [
        make_run(tmp_path / "a", [1.0, 2.0], seed=0, algorithm={"damping": 0.1}, threads=1),
        make_run(tmp_path / "b", [1.0, 2.0], seed=1, algorithm={"damping": 0.1}, threads=2),
        make_run(tmp_path / "c", [1.0, 2.0], seed=0, algorithm={"damping": 10.0}, threads=1),
    ]
    plot_runs([*runs, tmp_path / "a"], tmp_path / "figure")
    assert [text.get_text() for text in figures[0].axes[0].get_legend().get_texts()] == [
        "rat (damping 0.1), 2 runs",
        "rat (damping 10.0)",
    ]


def test_another_kind_of_figure_and_another_config_are_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", [1.0, 2.0])
    with pytest.raises(ValueError, match=r"PNG and SVG, got figure\.pdf"):
        plot_runs([run], tmp_path / "figure.pdf")
    (run / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"config\.json is not that of a run"):
        plot_runs([run], tmp_path / "figure")
