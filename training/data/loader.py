"""Batches of augmented samples whose order and augmentation are a pure function of (seed, epoch, sample)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from core.data.datasets import Dataset
from core.errors import InputError
from core.runtime.threads import prefetch
from training.data.augment import Augment


class Batch(NamedTuple):
    """`images` (N, H, W, 3) uint8 RGB and `labels` (N, H, W) uint8 train ids, 255 void, in the host's memory."""

    images: Tensor
    labels: Tensor


class EpochBatches:
    """A rank's part of each global batch of an epoch, in an order drawn from (seed, epoch).

    The last short batch is dropped, `dropped` tells its size. Raises InputError where there is not one whole batch or
    a rank would have no sample.
    """

    def __init__(self, count: int, batch_size: int, seed: int, rank: int = 0, ranks: int = 1) -> None:
        if count < batch_size:
            raise InputError(f"--batch-size: {batch_size} is more than the {count} training samples; use {count} or less")
        if batch_size < ranks:
            raise InputError(f"--batch-size: {batch_size} samples for {ranks} processes; use {ranks} or more, or --gpus")
        self.count, self.batch_size, self.seed, self.rank, self.ranks = count, batch_size, seed, rank, ranks
        self.dropped = count % batch_size

    def __len__(self) -> int:
        return self.count // self.batch_size

    def whole(self, epoch: int) -> list[list[int]]:
        """The indices of every global batch of an epoch, all ranks together."""
        order = np.random.default_rng((self.seed, 0, epoch)).permutation(self.count).tolist()
        return [order[start : start + self.batch_size] for start in range(0, len(self) * self.batch_size, self.batch_size)]

    def mine(self, epoch: int) -> list[list[int]]:
        """This rank's share of them."""
        return [batch[self.rank :: self.ranks] for batch in self.whole(epoch)]


class Loader:
    """Reads and augments this rank's batches in threads, a few steps ahead of the training.

    Threads and not processes: the work is numpy and OpenCV, which run beside each other, so that nothing is
    copied between processes, nothing has to be started again after a crash, and a container needs no shared memory.
    """

    def __init__(self, dataset: Dataset, augment: Augment, batches: EpochBatches, threads: int, pin: bool = False) -> None:
        self.dataset, self.augment, self.batches, self.pin = dataset, augment, batches, pin
        self.threads = max(1, threads)
        cv2.setNumThreads(1)  # each picture has a thread of this pool already

    def __len__(self) -> int:
        return len(self.batches)

    def epoch(
        self, epoch: int, first: int = 0, timeout_s: float | None = None, waiting_for_it: Callable[[], None] = lambda: None
    ) -> Iterator[Batch]:
        """The batches of an epoch from step `first` on; those before are not touched.

        While a batch is waited for, `waiting_for_it` is called about every second. Raises InputError naming a file that
        broke, TimeoutError where a batch does not come within `timeout_s`.
        """
        plan = self.batches.mine(epoch)[first:]
        pool = ThreadPoolExecutor(self.threads, "loader")
        try:
            make = partial(self._batch, epoch)
            made = prefetch(pool, make, plan, self.threads + 2, timeout_s, waiting_for_it)
            for step in range(first, first + len(plan)):
                try:
                    yield next(made)
                except TimeoutError:
                    files = ", ".join(map(self.dataset.where, plan[step - first]))
                    raise TimeoutError(f"epoch {epoch}, step {step + 1}: no batch within {timeout_s:g} s: {files}") from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _batch(self, epoch: int, indices: list[int]) -> Batch:
        samples = [self.sample(epoch, index) for index in indices]
        images, labels = (torch.from_numpy(np.stack(parts)) for parts in zip(*samples, strict=True))
        return Batch(images.pin_memory(), labels.pin_memory()) if self.pin else Batch(images, labels)

    def sample(self, epoch: int, index: int) -> tuple[np.ndarray, np.ndarray]:
        """One augmented sample, (H, W, 3) uint8 RGB and (H, W) uint8 train ids."""
        # a stream of its own for every sample: no generator has to be saved to go on later
        rng = np.random.default_rng((self.batches.seed, 1, epoch, index))
        return self.augment(self.dataset[index], rng)
