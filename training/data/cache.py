"""The cache: every sample decoded and resized once, kept as raw bytes that all processes map into their memory."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

from core.data.datasets import Dataset, FolderDataset, Sample, read_sample
from core.errors import RunError
from core.runtime.files import TEMPORARY, remove_temporaries, write_atomically
from training.data.storage import Contents, Kept, Scan
from training.tracking.lock import hold

VERSION = 3  # of the layout and of what `Kept` does
MAGIC = b"SEGCACHE"


class Cache:
    """A split's cache file: raw samples one after another, then `Contents` as JSON, its length and a magic number.

    Its name is made of the files' names, sizes and times, the label space and the rule by which samples are kept: a
    changed file, another size or another rule is another name, and so is never taken for this one.
    """

    def __init__(self, dataset: FolderDataset, keep: Kept, folder: Path) -> None:
        self.dataset, self.keep, self.folder = dataset, keep, folder
        where = str(dataset.pairs[0][0].parent.absolute()) if dataset.pairs else ""  # other folders may have this name, too
        rule = [VERSION, where, keep.preprocess.model_dump(), keep.factor, keep.whole_labels, dataset.labels.model_dump()]
        self.kind = f"{dataset.name}-{dataset.split}-{_hash(rule)[:8]}"
        self.path = folder / f"{self.kind}-{_hash(files_of(dataset))[:16]}.cache"

    def read(self) -> Contents | None:
        """The account of a whole cache, None where there is none."""
        try:
            with self.path.open("rb") as file:
                file.seek(-16, os.SEEK_END)
                ending = file.read()
                if ending[8:] != MAGIC:
                    return None
                length = int.from_bytes(ending[:8], "little")
                end = file.seek(-16 - length, os.SEEK_END)
                contents = Contents.model_validate_json(file.read(length))
        except (OSError, ValueError):  # pydantic's is a ValueError, too
            return None
        return contents if end == sum(map(_bytes, contents.sizes)) else None

    def recovered(self, contents: Contents) -> bool:
        """Whether a sample that was bad can be used now: a network drive or a permission may have come back."""
        return any(not isinstance(read_sample(self.dataset, index), str) for index in contents.bad)

    def make(
        self, skip_bad: bool, told: Callable[[str], None] = print, timeout_s: float | None = None, tidy: bool = True
    ) -> Contents:
        """Decode everything and write the file, unless another process did so in the meantime; the account.

        With `tidy` caches of what the files were before are removed: other machines may see other times of the same files.
        Nothing is written where a sample is bad and is not to be skipped. Raises OSError: a full disk, for example, or
        TimeoutError where a file, or the process that makes a cache in this folder, hangs for `timeout_s` seconds.
        """
        with hold(self.folder, _Waiting(self.folder, told, timeout_s)):
            contents = self.read()
            if contents:
                return contents
            remove_temporaries(self.folder)
            outdated = [path for path in self.folder.glob(f"{self.kind}-*.cache") if tidy and path != self.path]
            if outdated:
                told(f"{self.dataset.name}: files of {self.dataset.split} changed; its cache is made anew")
            scan = Scan(self.dataset, self.keep, timeout_s)
            scan.contents.file = self.path.name
            try:
                write_atomically(self.path, self._chunks(scan, skip_bad))
            except _BadSamplesError:
                return scan.contents
            for path in outdated:  # whoever has it open keeps it until the end
                path.unlink(missing_ok=True)
            return scan.contents

    def _chunks(self, scan: Scan, skip_bad: bool) -> Iterator[memoryview]:
        for rgb, labels in scan.samples(f"decoding {self.dataset.split}, once"):
            # where one is bad, too, and all is thrown away: whoever waits sees that this process gets on
            yield from (np.ascontiguousarray(part).reshape(-1).data for part in (rgb, labels))
        if scan.contents.bad and not skip_bad:
            raise _BadSamplesError
        text = scan.contents.model_dump_json().encode()
        yield memoryview(text + len(text).to_bytes(8, "little") + MAGIC)


class CachedDataset:
    """A split as its cache holds it: samples are views of mapped memory, and no image file is opened."""

    def __init__(self, source: Dataset, folder: Path, contents: Contents) -> None:
        self.source, self.name, self.split, self.labels = source, source.name, source.split, source.labels
        self._sizes, self._good = contents.sizes, contents.good(source)
        self._starts = np.cumsum([0, *map(_bytes, self._sizes)])
        path = folder / contents.file
        try:
            self._data = np.memmap(path, np.uint8, mode="c")  # never written to; torch wants writable memory
        except FileNotFoundError:
            raise RunError(f"{path}: the cache is not there any more; start again with --resume, which makes it anew; --cache"
                           " has to name a folder that all processes of this machine see, or none") from None  # fmt: skip

    def __len__(self) -> int:
        return len(self._sizes)

    def __getitem__(self, index: int) -> Sample:
        height, width, label_height, label_width = self._sizes[index]
        data = self._data[self._starts[index] : self._starts[index + 1]]
        pixels = 3 * height * width
        return data[:pixels].reshape(height, width, 3), data[pixels:].reshape(label_height, label_width)

    def where(self, index: int) -> str:
        """The photograph's path."""
        return self.source.where(self._good[index])


class _Waiting:
    """Tells once of each process that is waited for, and gives up where what it writes does not grow any more."""

    def __init__(self, folder: Path, told: Callable[[str], None], timeout_s: float | None) -> None:
        self.folder, self.told, self.timeout_s = folder, told, timeout_s
        self.seen: tuple[str, int] = ("", 0)
        self.since = 0.0

    def __call__(self, holder: str) -> None:
        if holder != self.seen[0]:
            self.told(f"{self.folder}: {holder} is making a cache; waiting for it")
        written = 0
        for path in self.folder.glob(TEMPORARY):
            with suppress(FileNotFoundError):
                written += path.stat().st_size
        now = holder, written
        if now != self.seen:
            self.seen, self.since = now, time.monotonic()
        elif self.timeout_s is not None and time.monotonic() - self.since > self.timeout_s:
            raise TimeoutError(f"{self.folder}: {holder} is making a cache and got no further in {self.timeout_s:g} s; stop it,"
                               " or choose another folder with --cache DIR")  # fmt: skip


class _BadSamplesError(Exception):
    """Leaves the writing of a cache that is not to be."""


def _bytes(sizes: tuple[int, int, int, int]) -> int:
    return 3 * sizes[0] * sizes[1] + sizes[2] * sizes[3]


def files_of(dataset: FolderDataset) -> list[tuple[str, int, int]]:
    """Path, size and time of change of every file of a split."""
    states = []
    for path in (path for pair in dataset.pairs for path in pair):
        try:
            stat = path.stat()
        except OSError:  # reading it will tell what is wrong
            states.append((str(path.absolute()), -1, 0))
            continue
        states.append((str(path.absolute()), stat.st_size, stat.st_mtime_ns))
    return states


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
