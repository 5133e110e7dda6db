"""The data a command names: a folder, or `synthetic` for scenes generated on the fly."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from core.datasets import Dataset, FolderDataset, Sample, check_dataset, open_dataset
from core.errors import InputError
from core.labels import CITYSCAPES, LabelSpace
from training.scenes import street_scene

SYNTHETIC = "synthetic"
SIZES = {"train": 200, "val": 50}
SCENE = (256, 512)  # height, width


def scene_seed(seed: int, split: str, index: int) -> tuple[int, int, int]:
    """What a generated scene is drawn from; no scene of one split stands in the other."""
    return seed, ("train", "val").index(split), index


@dataclass(frozen=True)
class SyntheticDataset:
    """Generated street scenes with Cityscapes classes; the same for the same split and seed."""

    split: str
    count: int
    size: tuple[int, int] = SCENE
    seed: int = 0
    name: str = SYNTHETIC
    labels: LabelSpace = CITYSCAPES

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.count:
            raise IndexError(index)
        return _scene(self.seed, self.split, index, self.size)


@lru_cache(maxsize=512)
def _scene(seed: int, split: str, index: int, size: tuple[int, int]) -> Sample:
    rgb, ids = street_scene(np.random.default_rng(scene_seed(seed, split, index)), *size)
    return rgb, CITYSCAPES.encode(ids)


def open_data(source: str, split: str) -> Dataset:
    """Open a split of a data folder or of the generated scenes. Raises InputError."""
    if source != SYNTHETIC:
        return open_dataset(source, split)
    if split not in SIZES:
        raise InputError(f"--split: the generated scenes have no split {split!r}; found: {', '.join(SIZES)}")
    return SyntheticDataset(split, SIZES[split])


def open_training_data(source: str) -> tuple[Dataset, Dataset]:
    """The `train` and `val` splits. Raises InputError where their classes differ."""
    train, val = open_data(source, "train"), open_data(source, "val")
    if train.labels != val.labels:
        raise InputError(f"{source}: the splits have different classes")
    return train, val


def check(*splits: Dataset) -> None:
    """Tell everything that is wrong with the samples before the first epoch. Raises InputError."""
    for split in splits:
        if isinstance(split, FolderDataset):
            check_dataset(split)
