"""The data a command names: a folder, or `synthetic` for scenes generated on the fly."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from pydantic import BaseModel

from core.data.datasets import Dataset, FolderDataset, Sample, check_dataset, find_samples, listing, open_dataset
from core.data.labels import CITYSCAPES, LabelSpace
from core.errors import InputError, RunError
from training.data.cache import Cache, CachedDataset, files_of
from training.data.storage import Contents, Kept, KeptDataset, Scan
from training.synthetic.scenes import street_scene

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

    def where(self, index: int) -> str:
        """What to call a scene."""
        return f"{self.split} scene {index}"


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


def check(dataset: Dataset) -> None:
    """Tell everything that is wrong with the samples before the work. Raises InputError."""
    if isinstance(dataset, FolderDataset):
        check_dataset(dataset)


def fingerprint(dataset: Dataset) -> str:
    """What tells other samples at a glance: how many, and of files their names and sizes."""
    files = files_of(dataset) if isinstance(dataset, FolderDataset) else ()
    told = [(Path(path).name, size) for path, size, _ in files]
    return hashlib.sha256(json.dumps([len(dataset), told]).encode()).hexdigest()


class Survey(BaseModel):
    """What decoding the whole training data once told, for every process of a run."""

    train: Contents
    val: Contents
    skipped: list[str] = []  # what --skip-bad left out, and why

    @property
    def pictures(self) -> list[tuple[str, list[int]]]:
        """What tells these pictures from others: a digest of the good ones, and which are bad."""
        return [(split.source, sorted(split.bad)) for split in (self.train, self.val)]


@dataclass(frozen=True)
class TrainingData:
    """The two splits of a run, and how their samples are kept after the first decoding."""

    train: Dataset
    val: Dataset
    keep_train: Kept
    keep_val: Kept
    alone: tuple[str, ...]  # what is wrong with files that are not one of a pair
    cache: Path | None  # folder of the caches; None: files are read whenever they are asked for

    def survey(self, skip_bad: bool, timeout_s: float | None = None, tidy: bool = True) -> Survey:
        """Decode everything once and keep it. Raises InputError that lists everything that is wrong, of both splits.

        With `skip_bad` what is wrong is left out, and an error only where nothing is left. `tidy`: see `Cache.make`.
        """
        contents = [self._decode(dataset, keep, skip_bad, timeout_s, tidy) for dataset, keep in self._splits]
        problems = [*self.alone, *(problem for found in contents for problem in found.bad.values())]
        if problems and not skip_bad:
            advice = "mend or remove them, or train without them with --skip-bad"
            raise InputError(listing(f"{self.train.name}: {len(problems)} files can't be used ({advice})", problems))
        for (dataset, _), found in zip(self._splits, contents, strict=True):
            if len(found.bad) == len(dataset):
                raise InputError(listing(f"{dataset.name}: not one sample of {dataset.split} can be used", problems))
        return Survey(train=contents[0], val=contents[1], skipped=problems)

    def open(self, survey: Survey) -> tuple[Dataset, Dataset]:
        """The good samples of both splits as they are kept."""
        train, val = (
            self._open(dataset, keep, found)
            for (dataset, keep), found in zip(self._splits, (survey.train, survey.val), strict=True)
        )
        return train, val

    @property
    def _splits(self) -> tuple[tuple[Dataset, Kept], tuple[Dataset, Kept]]:
        return (self.train, self.keep_train), (self.val, self.keep_val)

    def _decode(self, dataset: Dataset, keep: Kept, skip_bad: bool, timeout_s: float | None, tidy: bool) -> Contents:
        if self.cache and isinstance(dataset, FolderDataset):
            cache = Cache(dataset, keep, self.cache)
            try:
                contents = cache.read()
                if contents and cache.recovered(contents):
                    cache.path.unlink(missing_ok=True)
                    contents = None
                return contents or cache.make(skip_bad, timeout_s=timeout_s, tidy=tidy)
            except TimeoutError:  # of a picture, and an OSError, too
                raise
            except OSError as error:
                raise RunError(f"{self.cache}: the cache can't be written ({error.strerror}); choose another folder with"
                               " --cache DIR, or train without one with --cache none") from None  # fmt: skip
        scan = Scan(dataset, keep, timeout_s)
        for _ in scan.samples(f"looking through {dataset.split}"):
            pass
        return scan.contents

    def _open(self, dataset: Dataset, keep: Kept, contents: Contents) -> Dataset:
        if self.cache and contents.file:
            return CachedDataset(dataset, self.cache, contents)
        return KeptDataset(dataset, keep, contents)


def open_training_data(source: str, keep_train: Kept, keep_val: Kept, cache: Path | None) -> TrainingData:
    """The `train` and `val` splits. Raises InputError where there is no such data or their classes differ."""
    if source == SYNTHETIC:
        train, val = open_data(source, "train"), open_data(source, "val")
        return TrainingData(train, val, keep_train, keep_val, (), cache)
    (train, alone), (val, others) = (find_samples(source, split) for split in ("train", "val"))
    if train.labels != val.labels:
        raise InputError(f"{source}: the splits have different classes")
    return TrainingData(train, val, keep_train, keep_val, (*alone, *others), cache)
