"""The ``ratpg`` command.

Exit codes: 0 on success; 2 and one line on bad input, or where a run cannot go on (it diverged, the disk is full); 130
after Ctrl-C or SIGTERM (the run can be resumed).
"""

import contextlib
import importlib
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from ratpg import __version__
from ratpg.cli.plain_text import print_anything

BAD_INPUT, INTERRUPTED = 2, 130
CONTROL = dict.fromkeys((*range(32), *range(127, 160)), "?")
"""Characters that would steer the terminal, of whoever wrote what a message quotes."""
USAGE = """usage: ratpg COMMAND ...

  train      train an agent                    ratpg train --env Hopper-v4
  resume     continue an interrupted run       ratpg resume RUN_DIR
  eval       run deterministic episodes        ratpg eval RUN_DIR --episodes 10
  plot       draw learning curves              ratpg plot RUN_DIR [RUN_DIR ...]
  video      film an episode                   ratpg video RUN_DIR
  export     write the policy as ONNX          ratpg export RUN_DIR
  bench      measure speed or memory           ratpg bench throughput
  reproduce  make the paper's evidence again   ratpg reproduce gaussian

`ratpg COMMAND --help` lists a command's options; with RATPG_DEBUG=1 errors keep their traceback."""
COMMANDS = {
    "train": "ratpg.cli.train:train",
    "resume": "ratpg.cli.train:resume",
    "eval": "ratpg.cli.evaluate:evaluate",
    "plot": "ratpg.cli.plot:plot",
    "video": "ratpg.integrations.video:video",
    "export": "ratpg.integrations.onnx:export",
    "bench": "ratpg.cli.script:bench",
    "reproduce": "ratpg.cli.script:reproduce",
}
"""Where each command is: a function of its arguments that returns the exit code, imported when it is called for."""


class Shown(SystemExit):
    """The help that was asked for has been printed."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    print_anything()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments[:1] == ["--version"]:
        print(f"ratpg {__version__}")
        return 0
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if arguments else BAD_INPUT
    if arguments[0] not in COMMANDS:
        return _fail(f"unknown command '{arguments[0]}': there are {', '.join(COMMANDS)}")
    module, _, name = COMMANDS[arguments[0]].partition(":")
    try:
        with loading():
            command = getattr(importlib.import_module(module), name)
        with _terminated_as_interrupted():
            return command(arguments[1:])
    except Shown:
        return 0
    except SystemExit as end:
        return _fail(f"the environment, or what it imports, ended the program: {end.code}")
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED)
    except BrokenPipeError:  # nobody reads the output any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still to be flushed
        return BAD_INPUT
    except Exception as error:
        return complain(error)


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """Ends the process at Ctrl-C or SIGTERM, while nothing can be lost.

    A KeyboardInterrupt would not do in the midst of imports: what is raised while PyTorch imports NumPy is dropped, and
    half of NumPy is left.
    """

    def leave(number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(OSError):
            os.write(2, b"ratpg: interrupted\n")  # not by print, within which the signal may have come
        os._exit(INTERRUPTED)

    before = {number: signal.signal(number, leave) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Lets SIGTERM raise KeyboardInterrupt, as Ctrl-C does, so that what is unfinished is removed."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def complain(error: Exception) -> int:
    """Says in one line what went wrong, and returns the exit code; raises what is no user's fault."""
    if os.environ.get("RATPG_DEBUG") or not _is_expected(error):
        raise error
    return _fail((" ".join(str(error).split()) or type(error).__name__) + _origin(error))


def _is_expected(error: Exception) -> bool:
    """Whether an error's message says what the user needs to know; others are ours, and keep their traceback."""
    import torch

    from ratpg.natgrad import CaptureError
    from ratpg.training.heap import is_out_of_memory

    kinds = ValueError, OSError, MemoryError, CaptureError, torch.linalg.LinAlgError
    return isinstance(error, kinds) or is_out_of_memory(error)


def _origin(error: Exception) -> str:
    """Where a bare ValueError comes from that is not ours: an environment's says little by itself."""
    import ratpg

    frames = traceback.extract_tb(error.__traceback__)
    if type(error) is not ValueError or not frames or Path(frames[-1].filename).is_relative_to(ratpg.__path__[0]):
        return ""
    return f" ({frames[-1].filename}, line {frames[-1].lineno})"


def _fail(message: str, code: int = BAD_INPUT) -> int:
    print(f"ratpg: {message.translate(CONTROL)}", file=sys.stderr)
    return code
