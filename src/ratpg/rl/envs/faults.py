"""Errors of an environment's own, told apart from those of everything else."""

import sysconfig
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

LIBRARIES = tuple(Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib"))
"""Where code lies that nobody wrote for this environment."""
OURS = Path(__file__).parents[2]


class EnvironmentFailed(ValueError):
    """An environment raised an error; the message has its type, its text and its place."""


class Closable(Protocol):
    """What can be closed."""

    def close(self) -> None: ...


def described(error: BaseException) -> str:
    """An error as one line: its type, its text, and the file and line of the environment that it comes from.

    Of an error that this library raised itself, which says all there is to say, the text alone.
    """
    text = " ".join(str(error).split())
    frames = traceback.extract_tb(error.__traceback__)
    if text and frames and Path(frames[-1].filename).is_relative_to(OURS):
        return text
    own = [frame for frame in frames if not any(map(Path(frame.filename).is_relative_to, (*LIBRARIES, OURS)))]
    place = "".join(f" ({frame.filename}, line {frame.lineno})" for frame in (own or frames)[-1:])
    return f"{type(error).__name__}{text and ': '}{text}{place}"


@contextmanager
def closing_whatever(closable: Closable, warn: Callable[[str], None]) -> Iterator[None]:
    """Closes environments at the end; where that fails it is said, and neither a result nor another error is lost."""
    try:
        yield
    finally:
        try:
            closable.close()
        except (Exception, SystemExit) as error:
            warn(f"the environments could not be closed: {described(error)}")
