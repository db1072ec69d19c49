"""``ratpg bench`` and ``ratpg reproduce``: the scripts of the repository's ``benchmarks/`` and ``experiments/``."""

import contextlib
import importlib
import runpy
import signal
import subprocess
import sys
from pathlib import Path

from ratpg.cli import INTERRUPTED, complain, loading
from ratpg.cli.plain_text import print_anything

REPOSITORY = Path(__file__).resolve().parents[3]


def bench(arguments: list[str]) -> int:
    """Runs a benchmark with its options."""
    return _run("benchmark", arguments)


def reproduce(arguments: list[str]) -> int:
    """Runs an experiment with its options."""
    return _run("experiment", arguments)


def commit(folder: str) -> str:
    """The commit that a script of this folder is of, with ``-dirty`` where the code differs from it.

    ``results/`` does not count: it differs as soon as a script has written there.
    """
    described = subprocess.run(["git", "describe", "--always"], capture_output=True, text=True)
    if described.returncode:
        return "unknown"  # no clone, but a copy of the files
    name = described.stdout.strip()
    changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", ":/src", f":/{folder}"]).returncode
    return f"{name}-dirty" if changed else name


def _run(kind: str, arguments: list[str]) -> int:
    folder = REPOSITORY / f"{kind}s"
    # A trailing _ keeps a script from hiding the package of its name from those beside it: mujoco_.py.
    names = {
        path.stem.rstrip("_"): path for path in folder.glob("*.py") if "__main__" in path.read_text(encoding="utf-8")
    }
    if not names:
        raise ValueError(
            f"the {kind}s are part of the repository, not of the installed package: clone it and `make setup`"
        )
    if arguments[:1] in (["-h"], ["--help"]):
        print(f"the {kind}s: {', '.join(sorted(names))}; each has a --help of its own")
        return 0
    if not arguments or arguments[0] not in names:
        raise ValueError(f"name one of the {kind}s: {', '.join(sorted(names))} (and its options, or --help)")
    command = [sys.executable, "-m", "ratpg.cli.script", str(names[arguments[0]]), *arguments[1:]]
    process = subprocess.Popen(command, cwd=REPOSITORY)  # of its own, as a measurement needs it
    before = signal.signal(signal.SIGTERM, lambda number, frame: process.send_signal(number))
    try:
        while True:
            with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C is the script's too, which has things to put away
                return process.wait()
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    print_anything()
    path = Path(sys.argv[1])
    del sys.argv[0]
    sys.path[0] = str(path.parent)
    with loading():
        importlib.import_module("torch")  # which all of them need
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # and not what nohup ignores
            signal.signal(number, signal.default_int_handler)
    try:
        runpy.run_path(str(path), run_name="__main__")
    except KeyboardInterrupt:
        what = "trainings of `ratpg reproduce` go on where they were, the rest starts anew"
        print(f"ratpg: interrupted; run again: {what}", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except Exception as error:
        sys.exit(complain(error))
