"""Back ends that block or record, in place of a network."""

from __future__ import annotations

import threading

import numpy as np
from fastapi import FastAPI


class BlockingBackend:
    """Return each batch unchanged, but only after `release`; until then the worker that runs it is busy."""

    batch_size = 1

    def __init__(self) -> None:
        self.backend, self._released = self, threading.Event()

    def forward(self, batch: np.ndarray) -> np.ndarray:
        self._released.wait(60)
        return batch

    def release(self) -> None:
        self._released.set()


class RecordingBackend(BlockingBackend):
    """Record each batch that it runs, as the first value of every input in it."""

    def __init__(self, batch_size: int = 1) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.batches: list[list[int]] = []

    def forward(self, batch: np.ndarray) -> np.ndarray:
        self.batches.append([int(x.flat[0]) for x in batch])
        return super().forward(batch)


def block_workers(app: FastAPI) -> BlockingBackend:
    """Keep all inference workers of a service busy until the returned back end is released."""
    backend, workers = BlockingBackend(), app.state.inference.workers
    for _ in workers.workers:
        workers.submit([backend] * len(workers.workers), np.zeros((1, 1, 3), np.uint8))
    return backend
