"""``ratpg video``: an episode of a trained policy as an MP4 file."""

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from ratpg.algorithms.checks import require
from ratpg.cli import loading
from ratpg.cli.arguments import parse
from ratpg.integrations.output import destination, written_whole
from ratpg.rl.envs import VecEnv, envpool, gymnasium
from ratpg.rl.envs.options import merge_options, parse_options
from ratpg.training.evaluate import evaluate
from ratpg.training.trainer import load_policy

WITHOUT_DISPLAY = {"MUJOCO_GL": "egl", "SDL_VIDEODRIVER": "dummy"}
"""How MuJoCo and pygame draw where there is none; they would look for one, and complain."""


@contextmanager
def film(path: Path) -> Iterator[Callable[[VecEnv], None]]:
    """What adds the first environment's picture to an MP4 file (H.264) each time it is called; at its own speed.

    Args:
        path: of the file.
    """
    with loading():
        import av
    with av.open(path, "w", format="mp4") as container:
        stream = None

        def add(envs: VecEnv) -> None:
            nonlocal stream
            picture = envs.render()
            if stream is None:
                stream = container.add_stream("libx264", rate=envs.frames_per_second)
                stream.height, stream.width = (size - size % 2 for size in picture.shape[:2])  # as the format has it
                stream.pix_fmt = "yuv420p"  # which all players know
            even = np.ascontiguousarray(picture[: stream.height, : stream.width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))

        yield add
        if stream is not None:
            container.mux(stream.encode())


@dataclass(frozen=True)
class VideoArguments:
    """Film one deterministic episode of a trained policy."""

    run_dir: tyro.conf.Positional[Path]
    """Folder of the run."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """The file, or a folder that exists, for episode.mp4; the run's folder unless given."""
    seed: int = 1000
    """Seed of the environment: another one, another episode."""
    env_options: tuple[str, ...] = ()
    """Options of the environment beside or instead of the run's, each name=value; such as width=320 height=240 of
    MuJoCo's pictures, which take less time to draw."""


def video(arguments: list[str]) -> int:
    """Films an episode and prints where, and what it returned."""
    options = parse(VideoArguments, "video", arguments)
    require("seed", options.seed, at_least=0)
    path = destination(options.output or options.run_dir, "episode.mp4")
    if importlib.util.find_spec("av") is None:
        raise ValueError("filming needs av: pip install av")
    policy, config = load_policy(options.run_dir)
    told, backend = parse_options(merge_options(config.env_options, options.env_options)), config.backend
    if gymnasium.is_known(config.env) or config.env not in envpool.known_ids():
        told, backend = gymnasium.drawing_options(config.env) | told, "gymnasium"
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        for name, value in WITHOUT_DISPLAY.items():
            os.environ.setdefault(name, value)
    with written_whole(path) as whole, film(whole) as add:
        result = evaluate(policy, config.env, episodes=1, seed=options.seed, backend=backend, options=told, watch=add)
    print(f"{path}: a return of {result.mean:.1f}")
    return 0
