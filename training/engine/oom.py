"""Out of memory: recognize errors that mean a device or the host has no memory left."""

from __future__ import annotations

# Messages of torch's CPU allocator, of CUDA, and of cuBLAS on a GPU that is almost full.
NO_MEMORY = ("can't allocate memory", "out of memory", "ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that an allocation failed; torch has an exception class for some such errors only."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's, without importing torch
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in NO_MEMORY)
