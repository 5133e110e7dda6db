"""What is kept of each sample after its first decoding, and the first scan of all of them, which tells what is wrong."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel

from core.data.datasets import Dataset, Sample, read_sample
from core.errors import InputError
from core.images.resize import Preprocess, Size, resize_label, resize_photo
from core.runtime.cpu import CORES
from core.runtime.threads import prefetch
from training.tracking.progress_bar import bar


@dataclass(frozen=True)
class Kept:
    """What is kept of a sample for later epochs, with a cache and without one.

    The photograph at `factor` times the network's size (never larger than it is, where that is not the network's size
    itself), the label at the same size, or with `whole_labels` at its own, as scores are taken.
    """

    preprocess: Preprocess
    factor: float = 1.0
    whole_labels: bool = False

    def __call__(self, sample: Sample) -> Sample:
        """(H, W, 3) uint8 RGB and (H, W) train ids to what is kept of them."""
        rgb, labels = sample
        size = self.size(*labels.shape)
        return resize_photo(rgb, size), labels if self.whole_labels else resize_label(labels, size)

    def size(self, height: int, width: int) -> Size:
        """The kept size of a photograph of this size."""
        fitted = self.preprocess.shape(height, width)
        if self.factor == 1:
            return fitted
        scaled = round(fitted[0] * self.factor), round(fitted[1] * self.factor)
        return scaled if scaled[0] * scaled[1] < height * width else (height, width)

    def fitted(self, height: int, width: int) -> Size:
        """The network's size for the photograph that is kept at this size: that of the kept one may be another by rounding."""
        if self.factor == 1:
            return height, width
        fitted, stride = self.preprocess.shape(height, width), self.preprocess.stride
        guess = round(height / self.factor / stride) * stride, round(width / self.factor / stride) * stride
        near = all(abs(a - b) <= stride for a, b in zip(guess, fitted, strict=True))
        same = (round(guess[0] * self.factor), round(guess[1] * self.factor)) == (height, width)
        return guess if near and same else fitted  # a small photograph is kept as it is


class Contents(BaseModel):
    """What decoding every sample of a split found, and, in a cache, where the samples lie."""

    bad: dict[int, str] = {}  # index in the data set -> what is wrong
    pixels: list[int]  # of each class, in the kept labels
    digest: str = ""  # SHA-256 in hex over those of the good samples, as they are kept
    source: str = ""  # the same before they are resized, which another CPU may do with other last bits
    file: str = ""  # the cache's name, where there is one
    sizes: list[tuple[int, int, int, int]] = []  # height and width of photograph and label, of the good ones in order

    def good(self, dataset: Dataset) -> list[int]:
        """The indices of the samples that can be used."""
        return [index for index in range(len(dataset)) if index not in self.bad]


class Scan:
    """Decodes every sample of a split once, in all cores, and keeps the account of it."""

    def __init__(self, dataset: Dataset, keep: Kept, timeout_s: float | None = None) -> None:
        self.dataset, self.keep, self.timeout_s = dataset, keep, timeout_s
        self.contents = Contents(pixels=[0] * len(dataset.labels))

    def samples(self, title: str) -> Iterator[Sample]:
        """What is kept of the good samples, in order, with a progress bar; the others go into `contents.bad`."""
        pool, whole, source = ThreadPoolExecutor(CORES), hashlib.sha256(), hashlib.sha256()
        try:
            found = prefetch(pool, self._keep, range(len(self.dataset)), 2 * CORES, self.timeout_s)
            shown = bar(title, items=found, total=len(self.dataset), unit="image")
            for index, (sample, kept, read) in enumerate(shown):
                if isinstance(sample, str):
                    self.contents.bad[index] = sample
                    continue
                whole.update(kept)
                source.update(read)
                counts = np.bincount(sample[1].ravel(), minlength=256)[: len(self.dataset.labels)]
                self.contents.pixels = (np.array(self.contents.pixels) + counts).tolist()
                self.contents.sizes.append((*sample[0].shape[:2], *sample[1].shape))
                yield sample
        except TimeoutError:
            where = self.dataset.where(len(self.contents.sizes) + len(self.contents.bad))
            raise TimeoutError(f"{where}: could not be read in {self.timeout_s:g} s; is its drive there?") from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # not waiting for a read that hangs
        self.contents.digest, self.contents.source = whole.hexdigest(), source.hexdigest()

    def _keep(self, index: int) -> tuple[Sample | str, bytes, bytes]:
        sample = read_sample(self.dataset, index)
        if isinstance(sample, str):
            return sample, b"", b""
        kept = self.keep(sample)
        return kept, _digest(kept), _digest(sample)


def _digest(sample: Sample) -> bytes:
    digest = hashlib.sha256()
    for part in sample:
        digest.update(np.ascontiguousarray(part).data)
    return digest.digest()


class KeptDataset:
    """The same samples without a cache: read, decoded and resized whenever they are asked for."""

    def __init__(self, source: Dataset, keep: Kept, contents: Contents) -> None:
        self.source, self.name, self.split, self.labels = source, source.name, source.split, source.labels
        self.keep, self._good = keep, contents.good(source)

    def __len__(self) -> int:
        return len(self._good)

    def __getitem__(self, index: int) -> Sample:
        sample = read_sample(self.source, self._good[index])
        if isinstance(sample, str):  # it was whole at the scan
            raise InputError(sample)
        return self.keep(sample)

    def where(self, index: int) -> str:
        """The photograph's path."""
        return self.source.where(self._good[index])
