"""``ratpg video``: an episode that can be watched, or one line that says why not."""

import ctypes.util
import importlib.util
from pathlib import Path

import av
import numpy as np
import pytest

from cli.command import Command
from ratpg.rl.envs import make_vec


def frames_of(path: Path) -> tuple[int, np.ndarray]:
    """Frames a second, and all frames, ``[n, height, width, 3]``."""
    with av.open(path) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        return int(container.streams.video[0].average_rate), np.stack(pictures)


def test_an_episode_is_filmed_from_its_start_to_its_end(ratpg: Command, tmp_path: Path) -> None:
    assert ratpg.train("CartPole-v1", tmp_path / "run").code == 0
    result = ratpg("video", tmp_path / "run", "--seed", 3)
    path = tmp_path / "run" / "episode.mp4"
    told, episode = result.out.strip().rsplit(" ", 1)
    assert (result.code, told, result.err) == (0, f"{path}: a return of", "")
    speed, frames = frames_of(path)
    assert (speed, frames.shape) == (50, (1 + round(float(episode)), 400, 600, 3))  # a reward of 1 a step
    envs = make_vec("CartPole-v1", 1, seed=3, backend="gymnasium", options={"render_mode": "rgb_array"})
    assert abs(frames[0].astype(float) - envs.render()).mean() < 2  # but for what compression loses
    assert abs(frames[-1].astype(float) - frames[0]).mean() > 0.2


def test_options_change_the_picture_and_the_output_is_where_it_is_told(ratpg: Command, tmp_path: Path) -> None:
    if ctypes.util.find_library("EGL") is None:
        pytest.skip("MuJoCo is drawn with EGL, which is not installed")
    assert ratpg.train("Hopper-v4", tmp_path / "run").code == 0
    size = ["--env-options", "width=65", "height=49", "max_episode_steps=5"]  # H.264 has even sizes
    assert ratpg("video", tmp_path / "run", "-o", tmp_path / "new" / "hop.mp4", *size).code == 0
    speed, frames = frames_of(tmp_path / "new" / "hop.mp4")
    assert (speed, frames.shape) == (125, (6, 48, 64, 3))
    assert frames.std() > 10
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["hop.mp4"]


def test_of_envpools_images_one_sees_what_the_policy_sees(ratpg: Command, tmp_path: Path) -> None:
    flags = ["--network", "nature-cnn", "--env-options", "max_episode_steps=20"]
    assert ratpg.train("Pong-v5", tmp_path, *flags, backend="envpool").code == 0
    result = ratpg("video", tmp_path)
    assert (result.code, result.err) == (0, "")
    _, frames = frames_of(tmp_path / "episode.mp4")
    assert frames.shape == (21, 336, 336, 3)
    envs = make_vec("Pong-v5", 1, seed=1000, backend="envpool", options={"max_episode_steps": 20})
    first = envs.observation[0, -1].numpy()
    assert abs(frames[0, ::4, ::4].astype(float) - first[..., None]).mean() < 4
    picture = envs.render()
    assert (picture[::4, ::4] == first[..., None]).all() and (picture[3::4, 3::4] == first[..., None]).all()


def test_what_has_no_pictures_is_told_in_one_line(ratpg: Command, tmp_path: Path) -> None:
    assert ratpg.train("CartPole-v1", tmp_path / "cart").code == 0
    result = ratpg("video", tmp_path / "cart", "--env-options", "render_mode=ansi")
    assert result.code == 2 and result.err.startswith("ratpg: the environment") and result.err.count("\n") == 1
    assert ratpg.train("Catch-v0", tmp_path / "catch", backend="envpool").code == 0
    result = ratpg("video", tmp_path / "catch")
    assert (result.code, result.err) == (2, "ratpg: only images are drawn of environments that EnvPool alone has\n")
    assert not list(tmp_path.glob("*/episode.mp4"))


def test_a_package_that_is_missing_is_named(ratpg: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ratpg.train("CartPole-v1", tmp_path).code == 0
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    result = ratpg("video", tmp_path)
    assert (result.code, result.err) == (2, "ratpg: filming needs av: pip install av\n")


def test_what_is_no_run_is_not_filmed(ratpg: Command, tmp_path: Path) -> None:
    result = ratpg("video", tmp_path)
    assert result.code == 2 and "checkpoint" in result.err and result.err.count("\n") == 1
