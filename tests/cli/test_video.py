"""``ratpg video``: an episode that can be watched, or one line that says why not."""

import ctypes.util
import os
import signal
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest
from gymnasium.envs.classic_control.cartpole import CartPoleEnv

from cli.command import PATIENCE, Command, start
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


def test_images_whose_colours_come_last_are_seen_too() -> None:
    envs = make_vec("CarRacing-v2", 1, seed=0, backend="envpool", options={"max_episode_steps": 5})
    assert envs.observation.shape == (1, 96, 96, 3)
    picture = envs.render()
    assert picture.shape == (384, 384, 3)
    assert (picture[::4, ::4] == envs.observation[0].numpy()).all()


@pytest.mark.parametrize(
    ("picture", "reason"),
    [
        (None, "the environment has no pictures: what it renders is no array of bytes [height, width, 3]"),
        (np.zeros((4, 4), np.uint8), "the environment has no pictures: what it renders is no array of bytes"),
        (np.zeros((4, 4, 3)), "the environment has no pictures: what it renders is no array of bytes"),
        (np.zeros((1, 4, 3), np.uint8), "pictures of 4 by 1 pixels are too small"),
        (OSError("no screen"), "the environment cannot be drawn on this machine: no screen"),
        (NotImplementedError(), "the environment cannot be drawn on this machine: NotImplementedError"),
    ],
)
def test_what_cannot_be_drawn_is_told_in_one_line(
    ratpg: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, picture: object, reason: str
) -> None:
    def render(env: CartPoleEnv) -> object:
        if isinstance(picture, Exception):
            raise picture
        return picture

    assert ratpg.train("CartPole-v1", tmp_path).code == 0
    monkeypatch.setattr(CartPoleEnv, "render", render)
    result = ratpg("video", tmp_path)
    assert result.code == 2 and result.err.startswith(f"ratpg: {reason}") and result.err.count("\n") == 1
    assert not list(tmp_path.glob("*.mp4")) and not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_what_envpool_alone_has_is_told_in_one_line(ratpg: Command, tmp_path: Path) -> None:
    assert ratpg.train("Catch-v0", tmp_path / "catch", backend="envpool").code == 0
    result = ratpg("video", tmp_path / "catch")
    assert (result.code, result.err) == (2, "ratpg: only images are drawn of environments that EnvPool alone has\n")
    flags = ["--env-options", "reward_threshold=100.0"]
    assert ratpg.train("CartPole-v1", tmp_path / "cart", *flags, backend="envpool").code == 0
    result = ratpg("video", tmp_path / "cart")
    assert result.code == 2 and result.err.count("\n") == 1 and "options reward_threshold=100.0" in result.err
    assert result.err.endswith("(it is filmed in Gymnasium, which has other options than EnvPool)\n")


def test_nothing_of_it_stays_in_the_process(ratpg: Command, tmp_path: Path) -> None:
    assert ratpg.train("CartPole-v1", tmp_path).code == 0
    before, hook = dict(os.environ), sys.unraisablehook
    assert ratpg("video", tmp_path).code == 0
    assert (dict(os.environ), sys.unraisablehook) == (before, hook)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_film_leaves_nothing(ratpg: Command, tmp_path: Path, number: int) -> None:
    assert ratpg.train("CartPole-v1", tmp_path / "run").code == 0
    (tmp_path / "film").mkdir()
    process = start("video", tmp_path / "run", "-o", tmp_path / "film")
    deadline = time.monotonic() + PATIENCE
    while not list((tmp_path / "film").iterdir()):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(number)
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out, err) == (130, "", "ratpg: interrupted\n")
    assert not list((tmp_path / "film").iterdir())


def test_a_package_that_is_missing_is_named(ratpg: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    result = ratpg("video", tmp_path)
    assert result.code == 2 and result.err.startswith("ratpg: filming needs av, which cannot be imported (")
    assert result.err.endswith("): pip install av\n") and result.err.count("\n") == 1


@pytest.mark.parametrize("name", ["film.gif", "film", "film.mp4.webm"])
def test_another_format_is_refused(ratpg: Command, tmp_path: Path, name: str) -> None:
    result = ratpg("video", tmp_path, "-o", tmp_path / name)
    assert (result.code, result.err) == (
        2,
        f"ratpg: {tmp_path / name} is no name of an MP4 file: let it end in .mp4\n",
    )


def test_what_is_no_run_is_not_filmed(ratpg: Command, tmp_path: Path) -> None:
    result = ratpg("video", tmp_path)
    assert result.code == 2 and "checkpoint" in result.err and result.err.count("\n") == 1
