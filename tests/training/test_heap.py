"""Memory that is freed stays with the process, once it is told so; and what says that there is too little."""

import subprocess
import sys

import pytest
import torch

from ratpg.training import heap

FAULTS = """
import resource, sys
import torch
from ratpg.training.heap import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
for _ in range(40):
    torch.empty(2**24).fill_(1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


def faults(argument: str) -> int:
    """Pages that a process was given for forty tensors of 64 MiB, each let go before the next."""
    command = [sys.executable, "-c", FAULTS, argument]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(heap.platform.libc_ver()[0] != "glibc", reason="of glibc alone")
def test_freed_memory_is_used_again() -> None:
    # Not for the first at once: with the alignment that PyTorch asks for, what is free may be a little too small.
    assert faults("kept") < 0.5 * faults("returned")


def test_what_says_that_memory_is_lacking_is_known() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**60, dtype=torch.uint8)
    assert heap.is_out_of_memory(raised.value)
    assert heap.is_out_of_memory(torch.OutOfMemoryError("of a GPU"))
    assert not heap.is_out_of_memory(RuntimeError("something else"))


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap.platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(heap.ctypes, "CDLL", lambda name: pytest.fail("asked for a C library"))
    heap.keep_freed_memory()
