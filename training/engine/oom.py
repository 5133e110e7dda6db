"""Memory: whether an error is that there is none left."""

from __future__ import annotations

import torch

# of torch's CPU, of CUDA, and of cuBLAS on a GPU that is almost full
NO_MEMORY = ("can't allocate memory", "out of memory", "ALLOC_FAILED")


def out_of_memory(error: BaseException) -> bool:
    """Whether a device or the machine has no memory left for what was asked; torch has a class for some such errors only."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY)
