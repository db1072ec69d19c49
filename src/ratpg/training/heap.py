"""The process's heap, which may keep what is freed instead of having it fetched from the system, page by page, anew."""

import ctypes
import platform

import torch

TRIM_THRESHOLD, MMAP_MAX = -1, -4
"""Parameters of glibc's ``mallopt``, from its ``malloc.h``."""


def keep_freed_memory() -> None:
    """Has glibc keep what this process frees; does nothing where there is another C library.

    By default allocations of more than 32 MiB are mapped from the system each time, and their pages fault one by one:
    a third of the time of a step on 512 images. The process then keeps what it has needed, in pieces of which not all
    fit what comes next: a training on Procgen has 2 GB instead of 0.8. Of the main thread's heap alone, in which
    PyTorch's tensors on CPUs are.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(MMAP_MAX, 0)
        mallopt(TRIM_THRESHOLD, -1)  # never: the number is read as the largest of all


def is_out_of_memory(error: Exception) -> bool:
    """Whether it says that memory is lacking, a GPU's or, which PyTorch's RuntimeError tells by its text, a CPU's."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
