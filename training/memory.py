"""Keeps freed memory for the next step: on a CPU giving it back and faulting it in again cost up to half of a step."""

from __future__ import annotations

import ctypes
import ctypes.util

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of <malloc.h>


def keep_freed_memory() -> bool:
    """Tell glibc's malloc to serve large blocks from the heap and never to shrink it; whether it could be told.

    A step allocates the same hundreds of megabytes as the step before. By default each tensor over 32 MB is mapped
    anew, and the kernel zeroes every page of it at its first touch.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, -1))
