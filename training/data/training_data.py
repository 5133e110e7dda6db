"""The data that a command names: a dataset directory, or `synthetic`; for training its two splits, scanned and stored."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel

from core.data.datasets import (
    Dataset,
    DirectoryDataset,
    find_problems,
    find_samples,
    format_problems,
    list_splits,
    open_dataset,
    sequence_ids,
)
from core.errors import InputError, TrainingError
from core.images.limits import MAX_PIXELS
from core.images.resize import Preprocess
from training.data.augment import make_augmentation
from training.data.cache import CachedDataset, DecodedCache, file_signatures
from training.data.checks import check_classes, class_warnings, duplicate_warnings
from training.data.storage import ResizedDataset, SplitIndex, SplitScanner, StoragePolicy
from training.distributed.context import DistributedContext
from training.synthetic.dataset import SYNTHETIC, open_synthetic

if TYPE_CHECKING:
    from training.config import TrainConfig


VAL_SPLITS = ("val", "valid", "validation")  # names of the validation split, by preference


def open_split(source: str, split: str, label_ids: str = "auto", max_pixels: int = MAX_PIXELS) -> Dataset:
    """Open a split of a dataset directory or of the generated scenes. Raises InputError.

    Args:
        source: The directory, or `synthetic`.
        split: Name of the split.
        label_ids: "train" to read the values of the label files as train ids.
        max_pixels: Maximum number of pixels of an image.
    """
    if source == SYNTHETIC:
        return open_synthetic(split)
    return replace(open_dataset(source, split, label_ids == "train"), max_pixels=max_pixels)


def validate_samples(dataset: Dataset, context: DistributedContext | None = None) -> None:
    """Decode every file once, each rank those of its shard, so that all unusable samples are reported before the work starts.

    Raises:
        InputError: Some samples are unusable; the message lists the reason for each. Only on rank 0: the others wait for it.
        TimeoutError: A file takes longer to read than a collective may take.
    """
    if not isinstance(dataset, DirectoryDataset):
        return
    context = context or DistributedContext()
    shards = context.gather_to_main(find_problems(dataset, context.rank, context.world_size, context.timeout_s))
    problems = sorted((index, problem) for shard in shards or [] for index, problem in shard)
    if problems:
        summary = f"{len(problems)} of the {len(dataset)} samples of {dataset.split} can't be used"
        raise InputError(format_problems(summary, [problem for _, problem in problems]))
    context.wait_for_all()


def fingerprint(dataset: Dataset) -> str:
    """Return a cheap hash over the number of samples and the names and sizes of their files."""
    files = file_signatures(dataset) if isinstance(dataset, DirectoryDataset) else ()
    names_and_sizes = [(Path(path).name, size) for path, size, _ in files]
    return hashlib.sha256(json.dumps([len(dataset), names_and_sizes]).encode()).hexdigest()


class DataScan(BaseModel):
    """The result of scanning both splits once, for every process of a run."""

    train: SplitIndex
    val: SplitIndex
    skipped: list[str] = []  # what --skip-bad leaves out, and why
    held_out: list[str] = []  # images of the training split that --val-fraction holds out
    warnings: list[str] = []  # about the classes and images of the splits

    @property
    def content_ids(self) -> list[tuple[str, list[int]]]:
        """Digest of the usable samples and indices of the bad ones, for each split: equal for equal data."""
        return [(index.original_digest, sorted(index.bad)) for index in (self.train, self.val)]


@dataclass(frozen=True)
class TrainingData:
    """The two splits of a run, and how their samples are stored after the first decoding."""

    train: Dataset
    val: Dataset
    train_policy: StoragePolicy
    val_policy: StoragePolicy
    pairing_errors: tuple[str, ...]  # images without label, labels without image
    cache_dir: Path | None  # directory of the cache files; None to read the dataset's files at each access
    is_held_out: bool = False  # whether `val` is a part of the training split

    def scan(self, skip_bad: bool, timeout_s: float | None = None, prune: bool = True) -> DataScan:
        """Decode and check every sample once, and write the cache.

        Args:
            skip_bad: Leave unusable files out instead of raising.
            timeout_s: Maximum time to read a sample.
            prune: See `DecodedCache.build`.

        Raises:
            InputError: Files of either split can't be used (all are listed), or no usable sample is left.
            TrainingError: The cache can't be written.
            TimeoutError: A file takes longer than `timeout_s` to read.
        """
        indexes = [self._scan(dataset, policy, skip_bad, timeout_s, prune) for dataset, policy in self._splits]
        problems = [*self.pairing_errors, *(problem for index in indexes for problem in index.bad.values())]
        if problems and not skip_bad:
            advice = "fix or remove them, or train without them with --skip-bad"
            raise InputError(format_problems(f"{self.train.name}: {len(problems)} files can't be used ({advice})", problems))
        for (dataset, _), index in zip(self._splits, indexes, strict=True):
            if len(index.bad) == len(dataset):
                raise InputError(format_problems(f"{dataset.name}: no sample of {dataset.split} can be used", problems))
        held_out = [self.val.sample_name(index) for index in range(len(self.val))] if self.is_held_out else []
        warnings = self._check_labels(*indexes)
        return DataScan(train=indexes[0], val=indexes[1], skipped=problems, held_out=held_out, warnings=warnings)

    def _check_labels(self, train: SplitIndex, val: SplitIndex) -> list[str]:
        """Return warnings about the classes and images of the splits. Raises InputError if the labels can't be meant."""
        labels = self.train.labels
        if isinstance(self.train, DirectoryDataset):
            check_classes(self.train.name, labels, self.train.file_labels, train.pixels, val.pixels)
        val_names = [self.val.sample_name(index) for index in val.valid_indices(self.val)]
        return [*class_warnings(labels, train.pixels, val.pixels), *duplicate_warnings(train, val, val_names)]

    def open(self, scan: DataScan) -> tuple[Dataset, Dataset]:
        """Return the usable samples of both splits as they are stored."""
        return self._open(self.train, self.train_policy, scan.train), self._open(self.val, self.val_policy, scan.val)

    @property
    def _splits(self) -> tuple[tuple[Dataset, StoragePolicy], tuple[Dataset, StoragePolicy]]:
        return (self.train, self.train_policy), (self.val, self.val_policy)

    def _scan(
        self, dataset: Dataset, policy: StoragePolicy, skip_bad: bool, timeout_s: float | None, prune: bool
    ) -> SplitIndex:
        if self.cache_dir and isinstance(dataset, DirectoryDataset):
            cache = DecodedCache(dataset, policy, self.cache_dir)
            try:
                index = cache.read()
                if index and cache.bad_samples_recovered(index):
                    cache.path.unlink(missing_ok=True)
                    index = None
                return index or cache.build(skip_bad, timeout_s=timeout_s, prune=prune)
            except TimeoutError:  # It is an OSError too, but concerns the dataset, not the cache.
                raise
            except OSError as error:
                raise TrainingError(
                    f"{self.cache_dir}: can't write the cache ({error.strerror}); choose another directory with --cache DIR, or"
                    " train without a cache with --cache none"
                ) from None
        scanner = SplitScanner(dataset, policy, timeout_s)
        for _ in scanner.samples(f"checking {dataset.split}"):
            pass
        return scanner.index

    def _open(self, dataset: Dataset, policy: StoragePolicy, index: SplitIndex) -> Dataset:
        if self.cache_dir and index.file:
            return CachedDataset(dataset, self.cache_dir, index)
        return ResizedDataset(dataset, policy, index)


def make_data(config: TrainConfig, preprocess: Preprocess) -> TrainingData:
    """Open the training and the validation split of a run.

    Raises:
        InputError: There is no such dataset, or the classes of the splits differ.
    """
    source = str(config.data)
    train_policy = make_augmentation(config, preprocess).storage_policy
    val_policy = StoragePolicy(preprocess, full_size_labels=True)
    if source == SYNTHETIC:
        splits = open_synthetic("train"), open_synthetic("val")
        return TrainingData(*splits, train_policy, val_policy, (), config.cache_dir)
    train_ids = config.label_ids == "train"
    samples, errors = find_samples(source, config.train_split, train_ids)
    samples = replace(samples, max_pixels=config.max_pixels)
    if config.val_fraction:
        train, val = hold_out(samples, config.val_fraction)
        return TrainingData(train, val, train_policy, val_policy, tuple(errors), config.cache_dir, is_held_out=True)
    found = list_splits(Path(source))
    val_split = config.val_split or next((name for name in VAL_SPLITS if name in found), None)
    if val_split is None:
        raise InputError(
            f"{source}: no validation split; found: {', '.join(found)}; name it with --val-split, or evaluate on a part of the"
            " training split with --val-fraction 0.1"
        )
    val, val_errors = find_samples(source, val_split, train_ids)
    val = replace(val, max_pixels=config.max_pixels)
    return TrainingData(samples, val, train_policy, val_policy, (*errors, *val_errors), config.cache_dir)


def hold_out(dataset: DirectoryDataset, fraction: float) -> tuple[DirectoryDataset, DirectoryDataset]:
    """Divide a split into one for training and one for validation, called `train` and `val`.

    Whole sequences are held out if there are several, because frames of one drive are alike; otherwise single images. The
    choice depends on the file names only: sequences are taken in the order of a hash until no other one fits.

    Raises:
        InputError: The split has a single image.
    """
    sequences: dict[str, list[int]] = {}
    for index, sequence in enumerate(sequence_ids(dataset)):
        sequences.setdefault(sequence, []).append(index)
    if len(sequences) == 1:
        sequences = {dataset.sample_name(index): [index] for index in range(len(dataset))}
    if len(sequences) < 2:
        raise InputError(f"{dataset.name}: --val-fraction needs at least two images in {dataset.split}")
    hashes = {name: hashlib.sha256(Path(name).name.encode()).digest() for name in sequences}
    held: set[int] = set()
    for name in sorted(sequences, key=hashes.__getitem__):
        if len(held) + len(sequences[name]) <= fraction * len(dataset):
            held.update(sequences[name])
    if not held:
        held.update(sequences[min(sequences, key=lambda name: len(sequences[name]))])
    parts = [[pair for index, pair in enumerate(dataset.pairs) if (index in held) == is_val] for is_val in (False, True)]
    train, val = (replace(dataset, split=name, pairs=pairs) for name, pairs in zip(("train", "val"), parts, strict=True))
    return train, val
