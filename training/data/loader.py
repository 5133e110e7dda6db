"""Batches of augmented samples; their order and augmentation are a pure function of (seed, epoch, sample)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from core.data.datasets import Dataset, Sample
from core.errors import InputError
from core.runtime.threads import prefetch
from training.data.augment import Augment


class Batch(NamedTuple):
    """`images` (N, H, W, 3) uint8 RGB and `labels` (N, H, W) uint8 train ids, 255 void, in host memory."""

    images: Tensor
    labels: Tensor


class DistributedBatchSampler:
    """Sample indices of each global batch, shuffled by (seed, epoch), and this rank's shard of them.

    The last incomplete batch of an epoch is dropped; `dropped` is its size.

    Raises:
        InputError: There is no complete batch, or a rank would get no sample.
    """

    def __init__(self, num_samples: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1) -> None:
        if num_samples < batch_size:
            raise InputError(
                f"--batch-size: {batch_size} exceeds the {num_samples} training samples; use {num_samples} or less"
            )
        if batch_size < world_size:
            raise InputError(
                f"--batch-size: {batch_size} samples for {world_size} processes; use {world_size} or more, or fewer --gpus"
            )
        self.num_samples, self.batch_size, self.seed = num_samples, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.dropped = num_samples % batch_size

    def __len__(self) -> int:
        return self.num_samples // self.batch_size

    def global_batches(self, epoch: int) -> list[list[int]]:
        """Return the sample indices of each global batch of an epoch."""
        order = np.random.default_rng((self.seed, 0, epoch)).permutation(self.num_samples).tolist()
        return [order[start : start + self.batch_size] for start in range(0, len(self) * self.batch_size, self.batch_size)]

    def rank_batches(self, epoch: int) -> list[list[int]]:
        """Return this rank's shard of each global batch of an epoch."""
        return [batch[self.rank :: self.world_size] for batch in self.global_batches(epoch)]


class ThreadedLoader:
    """Reads and augments this rank's batches in threads, a few steps ahead of the training.

    Threads, not processes: numpy and OpenCV release the GIL, nothing is copied between processes or restarted after a crash,
    and containers need no shared memory.
    """

    def __init__(
        self, dataset: Dataset, augment: Augment, sampler: DistributedBatchSampler, threads: int, pin_memory: bool = False
    ) -> None:
        self.dataset, self.augment, self.sampler, self.pin_memory = dataset, augment, sampler, pin_memory
        self.threads = max(1, threads)
        cv2.setNumThreads(1)  # The samples are processed in parallel already.

    def __len__(self) -> int:
        return len(self.sampler)

    def iter_epoch(
        self,
        epoch: int,
        start_step: int = 0,
        timeout_s: float | None = None,
        on_wait: Callable[[], None] = lambda: None,
    ) -> Iterator[Batch]:
        """Yield the batches of an epoch from `start_step` (0 for the first); earlier ones are not read.

        Args:
            timeout_s: Maximum time to wait for a batch.
            on_wait: Called about once a second while a batch is waited for.

        Raises:
            InputError: A file can't be read any more.
            TimeoutError: A batch takes longer than `timeout_s`; the message lists its files.
        """
        remaining = self.sampler.rank_batches(epoch)[start_step:]
        pool = ThreadPoolExecutor(self.threads, "loader")
        try:
            load = partial(self._load_batch, epoch)
            batches = prefetch(pool, load, remaining, self.threads + 2, timeout_s, on_wait)
            for step, indices in enumerate(remaining, start_step + 1):
                try:
                    yield next(batches)
                except TimeoutError:
                    files = ", ".join(map(self.dataset.sample_name, indices))
                    raise TimeoutError(f"epoch {epoch}, step {step}: no batch within {timeout_s:g} s: {files}") from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _load_batch(self, epoch: int, indices: list[int]) -> Batch:
        samples = [self.load_sample(epoch, index) for index in indices]
        images, labels = (torch.from_numpy(np.stack(arrays)) for arrays in zip(*samples, strict=True))
        return Batch(images.pin_memory(), labels.pin_memory()) if self.pin_memory else Batch(images, labels)

    def load_sample(self, epoch: int, index: int) -> Sample:
        """Return an augmented sample, (H, W, 3) uint8 RGB and (H, W) uint8 train ids."""
        # Each sample has its own random stream, so a resume file needs no generator state.
        rng = np.random.default_rng((self.sampler.seed, 1, epoch, index))
        return self.augment(self.dataset[index], rng)
