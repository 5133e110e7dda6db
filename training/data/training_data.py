"""The data that a command names: a dataset directory, or `synthetic`; for training its two splits, scanned and stored."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel

from core.data.datasets import (
    ConcatDataset,
    Dataset,
    DirectoryDataset,
    dataset_names,
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
    """The result of scanning both splits once, for every process of a run; `train` and `val` have an index per directory."""

    train: list[SplitIndex]
    val: list[SplitIndex]
    skipped: list[str] = []  # what --skip-bad leaves out, and why
    held_out: list[str] = []  # images of the training split that --val-fraction holds out
    warnings: list[str] = []  # about the classes and images of the splits

    @property
    def content_ids(self) -> list[tuple[str, list[int]]]:
        """Digest of the usable samples and indices of the bad ones, for each split: equal for equal data."""
        return [(index.original_digest, sorted(index.bad)) for index in (*self.train, *self.val)]

    @property
    def train_pixels(self) -> list[int]:
        """Pixels of each class in the training split, (K,)."""
        return _sum_pixels(self.train)


@dataclass(frozen=True)
class TrainingData:
    """The two splits of a run, with a part per data directory, and how their samples are stored after the first decoding."""

    train: ConcatDataset
    val: ConcatDataset  # without the directories that have no validation split
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
        train, val = (
            [self._scan(part, policy, skip_bad, timeout_s, prune) for part in split.parts] for split, policy in self._splits
        )
        problems = [*self.pairing_errors, *(problem for index in (*train, *val) for problem in index.bad.values())]
        if problems and not skip_bad:
            advice = "fix or remove them, or train without them with --skip-bad"
            raise InputError(format_problems(f"{self.train.name}: {len(problems)} files can't be used ({advice})", problems))
        for part, index in zip((*self.train.parts, *self.val.parts), (*train, *val), strict=True):
            if len(index.bad) == len(part):
                raise InputError(format_problems(f"{part.name}: no sample of {part.split} can be used", problems))
        held_out = [self.val.sample_name(index) for index in range(len(self.val))] if self.is_held_out else []
        warnings = self._check_labels(train, val)
        return DataScan(train=train, val=val, skipped=problems, held_out=held_out, warnings=warnings)

    def _check_labels(self, train: list[SplitIndex], val: list[SplitIndex]) -> list[str]:
        """Return warnings about the classes and images of the splits. Raises InputError if the labels can't be meant."""
        labels = self.train.labels
        val_pixels = {part.name: index.pixels for part, index in zip(self.val.parts, val, strict=True)}
        for part, index in zip(self.train.parts, train, strict=True):
            if isinstance(part, DirectoryDataset):
                check_classes(part.name, labels, part.file_labels, index.pixels, val_pixels.get(part.name, [0] * len(labels)))
        only_train = [part.name for part in self.train.parts if part.name not in val_pixels]
        warnings = [f"{name} has no validation split: its images are trained on, but not evaluated" for name in only_train]
        val_images = [
            (part.sample_name(number), digest)
            for part, index in zip(self.val.parts, val, strict=True)
            for number, digest in zip(index.valid_indices(part), index.image_digests, strict=False)
        ]
        warnings += class_warnings(labels, _sum_pixels(train), _sum_pixels(val))
        return [*warnings, *duplicate_warnings((digest for index in train for digest in index.image_digests), val_images)]

    def open(self, scan: DataScan) -> tuple[ConcatDataset, ConcatDataset]:
        """Return the usable samples of both splits as they are stored."""
        train, val = (
            ConcatDataset([self._open(part, policy, index) for part, index in zip(split.parts, indexes, strict=True)])
            for (split, policy), indexes in zip(self._splits, (scan.train, scan.val), strict=True)
        )
        return train, val

    @property
    def _splits(self) -> tuple[tuple[ConcatDataset, StoragePolicy], tuple[ConcatDataset, StoragePolicy]]:
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


def _sum_pixels(indexes: list[SplitIndex]) -> list[int]:
    return [sum(counts) for counts in zip(*(index.pixels for index in indexes), strict=True)]


def make_data(config: TrainConfig, preprocess: Preprocess) -> TrainingData:
    """Open the training and the validation split of a run.

    Raises:
        InputError: There is no such dataset, none has a validation split, or one has classes that the first one lacks.
    """
    sources = config.data or ()
    train_policy = make_augmentation(config, preprocess).storage_policy
    val_policy = StoragePolicy(preprocess, full_size_labels=True)
    if sources == (SYNTHETIC,):
        splits = ConcatDataset([open_synthetic("train")]), ConcatDataset([open_synthetic("val")])
        return TrainingData(*splits, train_policy, val_policy, (), config.cache_dir)
    if SYNTHETIC in sources:
        raise InputError(
            f"--data: {SYNTHETIC} can't be combined with directories; write the scenes to a directory with python -m training"
            " synthesize, and list that"
        )
    train_parts: list[Dataset] = []
    val_parts: list[Dataset] = []
    pairing_errors: list[str] = []
    for source, name in zip(sources, dataset_names(sources), strict=True):
        train, val, errors = _open_directory(source, config)
        labels = train_parts[0].labels if train_parts else train.labels
        for parts, split in ((train_parts, train), (val_parts, val)):
            if split:
                split = replace(split, name=name, max_pixels=config.max_pixels)
                parts.append(split.with_labels(labels, config.extra_classes == "void"))
        pairing_errors += errors
    if not val_parts:
        found = ", ".join(list_splits(Path(sources[0])))
        raise InputError(
            f"{sources[0]}: no validation split; found: {found}; name it with --val-split, or evaluate on a part of the"
            " training split with --val-fraction 0.1"
        )
    splits = ConcatDataset(train_parts), ConcatDataset(val_parts)
    is_held_out = config.val_fraction is not None
    return TrainingData(*splits, train_policy, val_policy, tuple(pairing_errors), config.cache_dir, is_held_out)


def _open_directory(source: str, config: TrainConfig) -> tuple[DirectoryDataset, DirectoryDataset | None, list[str]]:
    """Return the training and the validation split of a directory, None if it has no such split, and pairing errors."""
    train_ids = config.label_ids == "train"
    train, errors = find_samples(source, config.train_split, train_ids)
    if config.val_fraction:
        return *hold_out(train, config.val_fraction), errors
    found = list_splits(Path(source))
    val_split = config.val_split or next((name for name in VAL_SPLITS if name in found), None)
    if val_split is None:
        return train, None, errors
    val, val_errors = find_samples(source, val_split, train_ids)
    return train, val, [*errors, *val_errors]


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
