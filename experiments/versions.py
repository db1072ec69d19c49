"""The versions that a figure comes from."""

import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("torch", "numpy", "envpool", "gymnasium", "mujoco")


def versions() -> str:
    """Of Python and of the packages that decide a figure."""
    found = [f"python={platform.python_version()}"]
    for name in PACKAGES:
        with suppress(PackageNotFoundError):  # EnvPool is for Linux alone
            found.append(f"{name}={version(name)}")
    return " ".join(found)
