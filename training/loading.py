"""Batches of augmented samples whose order and augmentation are a pure function of (seed, epoch, sample)."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from core import datasets
from core.errors import InputError
from core.transforms import Preprocess
from training.augment import Augment

Key = tuple[int, int]  # (epoch, index of the sample)
TIMEOUT = 300  # seconds after which a worker that gives nothing is an error


class AugmentedDataset(Dataset[tuple[Tensor, Tensor]]):
    """Gives network input (3, H, W) float32 and train ids (H, W) uint8 for an (epoch, index) pair."""

    def __init__(self, source: datasets.Dataset, augment: Augment, preprocess: Preprocess, seed: int) -> None:
        self.source, self.augment, self.preprocess, self.seed = source, augment, preprocess, seed

    def __getitem__(self, key: Key) -> tuple[Tensor, Tensor]:
        epoch, index = key
        # a stream of its own for every sample: no worker's generator has to be saved to go on later
        rng = np.random.default_rng((self.seed, 1, epoch, index))
        rgb, labels = self.augment(self.source[index], rng)
        return torch.from_numpy(self.preprocess.normalise(rgb)), torch.from_numpy(labels)


class EpochBatches(Sampler[list[Key]]):
    """A rank's part of each global batch of an epoch, in an order drawn from (seed, epoch); set `epoch` before use.

    The last short batch is dropped, `dropped` tells its size. Raises InputError where there is not one whole batch or
    a rank would have no sample.
    """

    def __init__(self, count: int, batch_size: int, seed: int, rank: int = 0, ranks: int = 1) -> None:
        if count < batch_size:
            raise InputError(f"--batch-size: {batch_size} is more than the {count} training samples; use {count} or less")
        if batch_size < ranks:
            raise InputError(f"--batch-size: {batch_size} samples for {ranks} processes; use {ranks} or more, or --gpus")
        self.count, self.batch_size, self.seed, self.rank, self.ranks = count, batch_size, seed, rank, ranks
        self.epoch = 0
        self.dropped = count % batch_size

    def __len__(self) -> int:
        return self.count // self.batch_size

    def __iter__(self) -> Iterator[list[Key]]:
        order = np.random.default_rng((self.seed, 0, self.epoch)).permutation(self.count)
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            batch = order[start : start + self.batch_size]
            yield [(self.epoch, int(index)) for index in batch[self.rank :: self.ranks]]


def make_loader(dataset: AugmentedDataset, batches: EpochBatches, workers: int) -> DataLoader[tuple[Tensor, Tensor]]:
    """A loader that decodes and augments in `workers` processes, or in this one where it is 0."""
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        worker_init_fn=_single_thread,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        timeout=TIMEOUT if workers else 0,
    )


def _single_thread(_: int) -> None:
    """A worker is one of many: threads of its own would only wait for each other."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
