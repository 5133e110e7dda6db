"""Memory: freed memory is kept for the next step, since on a CPU giving it back and faulting it in again cost up to half of a
step; and whether an error is that there is none left."""

from __future__ import annotations

import ctypes

import torch

# of torch's CPU, of CUDA, and of cuBLAS on a GPU that is almost full
NO_MEMORY = ("can't allocate memory", "out of memory", "ALLOC_FAILED")
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of <malloc.h>


def keep_freed_memory() -> None:
    """Tell glibc's malloc to serve large blocks from the heap and never to shrink it; nothing where there is another C library.

    A step allocates the same hundreds of megabytes as the step before. By default each tensor over 32 MB is mapped
    anew, and the kernel zeroes every page of it at its first touch.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, -1)


def out_of_memory(error: BaseException) -> bool:
    """Whether a device or the machine has no memory left for what was asked; torch has a class for some such errors only."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY)
