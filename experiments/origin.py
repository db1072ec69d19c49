"""Where a figure comes from: the commit that is run, and versions."""

import platform
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("torch", "numpy", "envpool", "gymnasium", "mujoco")


def commit() -> str:
    """The commit that is run, with ``-dirty`` where the code differs from it (``results/`` does as soon as one is)."""
    describe = ["git", "describe", "--always"]
    described = subprocess.run(describe, capture_output=True, text=True)
    if described.returncode:
        return "unknown"  # no clone, but a copy of the files
    name = described.stdout.strip()
    changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", "src", "experiments"]).returncode
    return f"{name}-dirty" if changed else name


def versions() -> str:
    """Of Python and of the packages that decide a figure."""
    found = [f"python={platform.python_version()}"]
    for name in PACKAGES:
        with suppress(PackageNotFoundError):  # EnvPool is for Linux alone
            found.append(f"{name}={version(name)}")
    return " ".join(found)
