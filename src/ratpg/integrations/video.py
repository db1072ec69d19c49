"""``ratpg video``: an episode of a trained policy as an MP4 file."""

import ctypes.util
import importlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from ratpg.algorithms.checks import require
from ratpg.cli import loading
from ratpg.cli.arguments import parse
from ratpg.integrations.output import destination
from ratpg.rl.envs import VecEnv, envpool, gymnasium
from ratpg.rl.envs.options import BadOption, merge_options, parse_options
from ratpg.rl.envs.vec_env import CannotDraw
from ratpg.training.evaluate import evaluate
from ratpg.training.files import written_whole
from ratpg.training.logging import say
from ratpg.training.saved_run import load_policy


@contextmanager
def film(path: Path, av: Any) -> Iterator[Callable[[VecEnv], None]]:
    """What adds the first environment's picture to an MP4 file (H.264) each time it is called; at its own speed.

    Args:
        path: of the file.
        av: the package (PyAV) that encodes.
    """
    with av.open(path, "w", format="mp4") as container:
        stream = None

        def add(envs: VecEnv) -> None:
            nonlocal stream
            picture = envs.render()
            if stream is None:
                height, width = (size - size % 2 for size in picture.shape[:2])  # as the format has it
                if not (height and width):
                    raise CannotDraw(f"pictures of {picture.shape[1]} by {picture.shape[0]} pixels are too small")
                stream = container.add_stream("libx264", rate=envs.frames_per_second)
                stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"  # which all players know
            even = np.ascontiguousarray(picture[: stream.height, : stream.width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))

        yield add
        if stream is not None:
            container.mux(stream.encode())


@contextmanager
def without_window() -> Iterator[None]:
    """Lets MuJoCo and pygame draw without a display, and without words of their own."""
    chosen = {"SDL_VIDEODRIVER": "dummy"}
    if sys.platform == "linux" and ctypes.util.find_library("EGL"):
        chosen["MUJOCO_GL"] = "egl"  # otherwise it looks for a display first, and ends there
    before, hook = dict(os.environ), sys.unraisablehook
    sys.unraisablehook = lambda unraisable: None  # of viewers that could not be made, when they are deleted
    os.environ.update({name: value for name, value in chosen.items() if name not in before})
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        sys.unraisablehook = hook
        for name in chosen.keys() - before.keys():
            del os.environ[name]


@dataclass(frozen=True)
class VideoArguments:
    """Film one deterministic episode of a trained policy."""

    run_dir: tyro.conf.Positional[Path]
    """Folder of the run."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """The file, NAME.mp4, or a folder that exists, for episode.mp4; the run's folder unless given."""
    seed: int = 1000
    """Seed of the environment: another one, another episode."""
    env_options: tuple[str, ...] = ()
    """Options of the environment beside or instead of the run's, each name=value; such as width=320 height=240 of
    MuJoCo's pictures, which take less time to draw."""
    trust_env: bool = False
    """Let a run whose environment is MODULE:ID import that module: then code that the run folder names is run."""


def video(arguments: list[str]) -> int:
    """Films an episode and prints where, and what it returned."""
    options = parse(VideoArguments, "video", arguments)
    require("seed", options.seed, at_least=0, at_most=2**63 - 1)
    path = destination(options.output or options.run_dir, "episode.mp4")
    if path.suffix.lower() != ".mp4":
        raise ValueError(f"{path} is no name of an MP4 file: let it end in .mp4")
    try:
        with loading():
            av = importlib.import_module("av")
    except Exception as error:  # whatever a broken package raises
        raise ValueError(f"filming needs av, which cannot be imported ({error}): pip install av") from error
    policy, config = load_policy(options.run_dir, trust_env=options.trust_env)
    told, backend = parse_options(merge_options(config.env_options, options.env_options)), config.backend
    drawn = gymnasium.is_known(config.env) or config.env not in envpool.known_ids()
    if drawn:
        told, backend = gymnasium.drawing_options(config.env, told), "gymnasium"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with without_window(), written_whole(path) as file, film(Path(file.name), av) as add:
            result = evaluate(
                policy,
                config.env,
                episodes=1,
                seed=options.seed,
                backend=backend,
                options=told,
                watch=add,
                warn=lambda line: say(f"ratpg: {line}", sys.stderr),
            )
    except BadOption as error:
        raise BadOption(f"{error} (it is filmed in Gymnasium, which has other options than EnvPool)") from error
    print(f"{path}: a return of {result.mean:z.1f}")
    return 0
