"""Scan every split of one or several datasets: sizes, pixels of each class, unusable files, images that splits share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from core.data.datasets import DirectoryDataset, dataset_names, find_samples, list_splits, read_sample
from core.data.labels import LabelSpace
from core.errors import InputError
from core.images.decode import RGB
from core.runtime.cpu import NUM_CPUS
from core.runtime.threads import prefetch
from training.data.checks import check_classes, class_warnings
from training.data.training_data import VAL_SPLITS
from training.tracking.progress_bar import progress_bar

HASH_SIDE = 16  # a hash has HASH_SIDE * HASH_SIDE bits
HASH_MARGIN = 4  # gray levels; smaller differences are noise
# Bits. Of 200 images of Cityscapes and CamVid each, 19 of 20 stay within it if saved at half size and JPEG quality 50, and
# different frames of one drive differ in 12 or more.
MAX_HASH_DISTANCE = 8

Hash = npt.NDArray[np.uint8]  # (32,): 256 bits


@dataclass
class SplitInspection:
    """What one split contains.

    Attributes:
        name: Name of the split; DATASET/SPLIT if several datasets are inspected.
        dataset: The paired files; None if the split can't be opened.
        problems: Why the split or some of its files can't be used.
        sizes: (height, width) of the usable images, and their numbers.
        pixels: Pixels of each class, (K,), and of void, (1,), in the labels: (K + 1,) int64.
        hashes: Perceptual hashes of the usable images, by name.
    """

    name: str
    dataset: DirectoryDataset | None
    problems: list[str]
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    pixels: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(1, np.int64))
    hashes: dict[str, Hash] = field(default_factory=dict)

    @property
    def class_fractions(self) -> npt.NDArray[np.float64]:
        """Fraction of the labeled pixels of each class, (K,); NaN without labeled pixels."""
        labeled = self.pixels[:-1].sum()
        return self.pixels[:-1] / labeled if labeled else np.full(len(self.pixels) - 1, np.nan)


def inspect_splits(roots: Sequence[Path], train_ids: bool = False, extra_as_void: bool = False) -> list[SplitInspection]:
    """Decode every sample of every split of the datasets, with the classes of the first one.

    Args:
        roots: The data directories.
        train_ids: See `find_samples`.
        extra_as_void: See `DirectoryDataset.with_labels`.

    Raises:
        InputError: A directory is not a dataset, has no split, or is listed twice.
    """
    inspections = []
    labels: LabelSpace | None = None
    splits = []
    for root, dataset_name in zip(roots, dataset_names(roots), strict=True):
        found = list_splits(root)
        if not found:
            raise InputError(f"{root}: the dataset has no splits; expected directories such as images/train")
        splits += [(root, dataset_name, split) for split in found]
    for root, dataset_name, split in splits:
        name = split if len(roots) == 1 else f"{dataset_name}/{split}"
        try:
            dataset, problems = find_samples(root, split, train_ids)
            labels = labels or dataset.labels
            dataset = replace(dataset, name=dataset_name).with_labels(labels, extra_as_void)
        except InputError as error:
            inspections.append(SplitInspection(name, None, [str(error)]))
            continue
        inspection = SplitInspection(name, dataset, problems, pixels=np.zeros(len(dataset.labels) + 1, np.int64))
        with ThreadPoolExecutor(NUM_CPUS) as pool:
            samples = prefetch(pool, partial(_scan_sample, dataset), range(len(dataset)), 2 * NUM_CPUS)
            for index, sample in enumerate(progress_bar(f"reading {name}", items=samples, total=len(dataset), unit="image")):
                if isinstance(sample, str):
                    inspection.problems.append(sample)
                    continue
                size, pixels, inspection.hashes[dataset.sample_name(index)] = sample
                inspection.sizes[size] += 1
                inspection.pixels += pixels
        inspections.append(inspection)
    return inspections


def _scan_sample(dataset: DirectoryDataset, index: int) -> tuple[tuple[int, int], npt.NDArray[np.int64], Hash] | str:
    """Return the size, the pixels of each class and the hash of a sample, or why it can't be used."""
    try:
        rgb, labels = read_sample(dataset, index, allow_all_void=True)
    except InputError as error:
        return str(error)
    counts = np.bincount(labels.ravel(), minlength=256)
    pixels = np.append(counts[: len(dataset.labels)], counts[255])
    return (labels.shape[0], labels.shape[1]), pixels, difference_hash(rgb)


def difference_hash(rgb: RGB) -> Hash:
    """Return which of the 16x16 cells of the gray image are darker than their right neighbors.

    Source: N. Krawetz, "Kind of Like That" (2013).
    """
    gray = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(gray, (HASH_SIDE + 1, HASH_SIDE), interpolation=cv2.INTER_AREA).astype(np.int16)
    return np.packbits(small[:, :-1] + HASH_MARGIN < small[:, 1:])


def near_duplicates(first: SplitInspection, second: SplitInspection) -> list[tuple[str, str]]:
    """Return the pairs of images (name in `first`, name in `second`) that look the same."""
    if not first.hashes or not second.hashes:
        return []
    names, hashes = list(first.hashes), np.stack(list(first.hashes.values()))
    pairs = []
    for name, value in second.hashes.items():
        distances = np.bitwise_count(hashes ^ value).sum(1)
        pairs += [(names[index], name) for index in np.flatnonzero(distances <= MAX_HASH_DISTANCE)]
    return pairs


def find_warnings(inspections: list[SplitInspection]) -> tuple[list[str], list[str]]:
    """Return what `train` refuses about the labels as a whole, and what is suspicious, one line each."""
    refusals, warnings = [], []
    train: dict[str, tuple[DirectoryDataset, npt.NDArray[np.int64]]] = {}  # by dataset; with the pixels of each class
    val: dict[str, npt.NDArray[np.int64]] = {}
    for inspection in inspections:
        dataset, pixels = inspection.dataset, inspection.pixels[:-1]
        if dataset and inspection.sizes and dataset.split == "train":
            train[dataset.name] = dataset, pixels
        elif dataset and inspection.sizes and dataset.split in VAL_SPLITS:
            val.setdefault(dataset.name, pixels)  # The splits are sorted as VAL_SPLITS is.
    for name, (dataset, pixels) in train.items():
        try:
            val_pixels = val.get(name, np.zeros_like(pixels))
            check_classes(name, dataset.labels, dataset.file_labels, pixels.tolist(), val_pixels.tolist())
        except InputError as error:
            refusals.append(str(error))
    if train and val:
        labels = next(iter(train.values()))[0].labels
        train_pixels = np.sum([pixels for _, pixels in train.values()], axis=0)
        warnings += class_warnings(labels, train_pixels.tolist(), np.sum(list(val.values()), axis=0).tolist())
    for first, second in combinations([inspection for inspection in inspections if inspection.hashes], 2):
        duplicates = near_duplicates(first, second)
        if duplicates:
            warnings.append(
                f"{len({name for _, name in duplicates}):,} images of {second.name} look like images of {first.name}, such as"
                f" {duplicates[0][1]} and {duplicates[0][0]}"
            )
    return refusals, warnings
