"""The cache: every sample of a split decoded and resized once, in one file that all processes of a node map into memory."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

from core.data.datasets import Dataset, DirectoryDataset, Sample, sample_problem
from core.errors import TrainingError
from core.runtime.atomic import TMP_GLOB, remove_temporaries, write_atomically
from training.data.storage import SplitIndex, SplitScanner, StoragePolicy
from training.tracking.lock import dir_lock

VERSION = 3  # of the file layout and of what `StoragePolicy` computes
MAGIC = b"SEGCACHE"


class DecodedCache:
    """The cache file of a split: the raw samples, then their `SplitIndex` as JSON, its length (8 bytes) and a magic number.

    The file name contains hashes of the dataset's file names, sizes and times, the label space and the storage policy. So a
    changed file or another policy has another name, and an outdated cache is never used.
    """

    def __init__(self, dataset: DirectoryDataset, policy: StoragePolicy, directory: Path) -> None:
        self.dataset, self.policy, self.directory = dataset, policy, directory
        location = str(dataset.pairs[0][0].parent.absolute()) if dataset.pairs else ""  # two datasets may have one name
        preprocess, labels = policy.preprocess.model_dump(), dataset.file_labels.model_dump()
        if not (policy.full_size_labels and policy.preprocess.reduce_jpeg):
            # Nothing is reduced, so the key remains that of earlier versions, whose caches stay valid.
            del preprocess["reduce_jpeg"]
        key = [VERSION, location, preprocess, policy.factor, policy.full_size_labels, labels]
        key += [dataset.class_map, len(dataset.labels)] if dataset.class_map else []
        self.key_prefix = f"{dataset.name}-{dataset.split}-{_hash(key)[:8]}"
        self.path = directory / f"{self.key_prefix}-{_hash(file_signatures(dataset))[:16]}.cache"

    def read(self) -> SplitIndex | None:
        """Return the index of the cache file, None if the file is missing or incomplete."""
        try:
            with self.path.open("rb") as file:
                file.seek(-16, os.SEEK_END)
                trailer = file.read()
                if trailer[8:] != MAGIC:
                    return None
                length = int.from_bytes(trailer[:8], "little")
                samples_end = file.seek(-16 - length, os.SEEK_END)
                index = SplitIndex.model_validate_json(file.read(length))
        except (OSError, ValueError):  # pydantic's ValidationError is a ValueError
            return None
        return index if samples_end == sum(map(_num_bytes, index.sizes)) else None

    def bad_samples_recovered(self, index: SplitIndex) -> bool:
        """Return whether a bad sample can be used now: a network drive or a permission may have been restored."""
        return any(sample_problem(self.dataset, number) is None for number in index.bad)

    def build(
        self, skip_bad: bool, log: Callable[[str], None] = print, timeout_s: float | None = None, prune: bool = True
    ) -> SplitIndex:
        """Decode all samples and write the file, unless another process has done so meanwhile; return the index.

        Args:
            skip_bad: Write the file although samples are bad; otherwise only the index is returned.
            log: Called with messages.
            timeout_s: Maximum time to read a sample, and for a process that builds a cache here to make progress.
            prune: Remove caches of earlier states of the dataset's files. Not on several nodes, which may see different
                modification times of the same files.

        Raises:
            OSError: The file can't be written; the disk may be full.
            TimeoutError: A sample, or the process that holds the lock, makes no progress for `timeout_s`.
        """
        with dir_lock(self.directory, _StallGuard(self.directory, log, timeout_s)):
            index = self.read()
            if index:
                return index
            remove_temporaries(self.directory)
            outdated = [path for path in self.directory.glob(f"{self.key_prefix}-*.cache") if prune and path != self.path]
            if outdated:
                log(f"{self.dataset.name}: files of {self.dataset.split} have changed; rebuilding its cache")
            scanner = SplitScanner(self.dataset, self.policy, timeout_s)
            scanner.index.file = self.path.name
            try:
                write_atomically(self.path, self._chunks(scanner, skip_bad))
            except _BadSamplesError:
                return scanner.index
            for path in outdated:  # a process that has mapped the file keeps it
                path.unlink(missing_ok=True)
            return scanner.index

    def _chunks(self, scanner: SplitScanner, skip_bad: bool) -> Iterator[memoryview]:
        for sample in scanner.samples(f"decoding {self.dataset.split}"):
            # Samples are written even after a bad one, when the file will be discarded: a waiting process sees progress.
            yield from (np.ascontiguousarray(array).reshape(-1).data for array in sample)
        if scanner.index.bad and not skip_bad:
            raise _BadSamplesError
        text = scanner.index.model_dump_json().encode()
        yield memoryview(text + len(text).to_bytes(8, "little") + MAGIC)


class CachedDataset:
    """A split read from its cache file: samples are views of mapped memory, and no image file is opened."""

    def __init__(self, source: Dataset, directory: Path, index: SplitIndex) -> None:
        self.source, self.name, self.split, self.labels = source, source.name, source.split, source.labels
        self._sizes, self._indices = index.sizes, index.valid_indices(source)
        self._offsets = np.cumsum([0, *map(_num_bytes, self._sizes)])
        path = directory / index.file
        try:
            # Mode "c" (copy on write) because torch warns about read-only memory; nothing is written.
            self._data = np.memmap(path, np.uint8, mode="c")
        except FileNotFoundError:
            raise TrainingError(
                f"{path}: the cache file was deleted; start again with --resume to rebuild it. --cache must name a directory"
                " that all processes of this node can access, or `none`"
            ) from None

    def __len__(self) -> int:
        return len(self._sizes)

    def __getitem__(self, index: int) -> Sample:
        height, width, label_height, label_width = self._sizes[index]
        data = self._data[self._offsets[index] : self._offsets[index + 1]]
        image_bytes = 3 * height * width
        return data[:image_bytes].reshape(height, width, 3), data[image_bytes:].reshape(label_height, label_width)

    def sample_name(self, index: int) -> str:
        """Return the path of the image."""
        return self.source.sample_name(self._indices[index])


class _StallGuard:
    """Called while another process holds the lock: logs its name once, and raises TimeoutError if it makes no progress."""

    def __init__(self, directory: Path, log: Callable[[str], None], timeout_s: float | None) -> None:
        self.directory, self.log, self.timeout_s = directory, log, timeout_s
        self.last_state: tuple[str, int] = ("", 0)  # holder of the lock, bytes written
        self.since = 0.0  # monotonic time of the last change of the state

    def __call__(self, holder: str) -> None:
        if holder != self.last_state[0]:
            self.log(f"{self.directory}: waiting for {holder}, which is building a cache")
        written = 0
        for path in self.directory.glob(TMP_GLOB):
            with suppress(FileNotFoundError):
                written += path.stat().st_size
        state = holder, written
        if state != self.last_state:
            self.last_state, self.since = state, time.monotonic()
        elif self.timeout_s is not None and time.monotonic() - self.since > self.timeout_s:
            raise TimeoutError(
                f"{self.directory}: {holder} is building a cache and has made no progress in {self.timeout_s:g} s; stop it, or"
                " choose another directory with --cache DIR"
            )


class _BadSamplesError(Exception):
    """Ends the writing of a cache with bad samples; `write_atomically` then discards the file."""


def file_signatures(dataset: DirectoryDataset) -> list[tuple[str, int, int]]:
    """Return path, size in bytes and modification time in nanoseconds of every file of a split."""
    signatures = []
    for path in (path for pair in dataset.pairs for path in pair):
        try:
            status = path.stat()
        except OSError:  # reading the file will report the reason
            signatures.append((str(path.absolute()), -1, 0))
            continue
        signatures.append((str(path.absolute()), status.st_size, status.st_mtime_ns))
    return signatures


def _num_bytes(sizes: tuple[int, int, int, int]) -> int:
    """Return the bytes of a sample from the height and width of its image and label."""
    return 3 * sizes[0] * sizes[1] + sizes[2] * sizes[3]


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
