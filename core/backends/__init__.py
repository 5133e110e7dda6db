"""Back ends: what runs a checkpoint's network; chosen by one function and imported only when chosen."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from core.checkpoint import Checkpoint
from core.errors import InputError

BACKENDS = ("torch",)


class Backend(Protocol):
    """A network ready to run. `name` says which back end, `device` where, both for replies and reports."""

    name: str
    device: str

    def forward(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Network input (N, 3, H, W) to logits (N, K, H, W)."""
        ...


def open_backend(checkpoint: Checkpoint, device: str = "auto", backend: str = "auto") -> Backend:
    """The back end for a checkpoint: predict, evaluate, compare and the service all choose here.

    `device` is `auto` (the first GPU where there is one), `cpu`, `cuda` or `cuda:N`. Raises InputError for a name or
    a device that is not there and CheckpointError where the weights do not fit the architecture.
    """
    if backend not in ("auto", *BACKENDS):
        raise InputError(f"unknown back end {backend!r}; known: auto, {', '.join(BACKENDS)}")
    from core.backends import torch_

    return torch_.TorchBackend.load(checkpoint, device)
