"""Freed memory kept for what comes next: giving it back and faulting it in again cost half a step, a fifth of an inference."""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # of <malloc.h>


def keep_freed_memory(at_most: int | None = None) -> None:
    """Tell glibc's malloc to keep what is freed, of each of its heaps so many bytes at most; nothing where there is another
    C library.

    The same megabytes are allocated for each step and each picture. By default large blocks are mapped anew, and the
    kernel zeroes every page of them at its first touch. With a limit, blocks over 32 MB still are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return
    if at_most is None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)
    else:
        mallopt(M_MMAP_THRESHOLD, 32 << 20)
        mallopt(M_TRIM_THRESHOLD, at_most)
