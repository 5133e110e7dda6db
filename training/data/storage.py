"""What is stored of each sample after its first decoding, and the scan of a split that decodes and checks every sample."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from pydantic import AliasChoices, BaseModel, Field

from core.data.datasets import Dataset, Sample, read_sample, reduce_images
from core.errors import InputError
from core.images.resize import Preprocess, Size, resize_image, resize_label
from core.runtime.cpu import NUM_CPUS
from core.runtime.threads import prefetch
from training.tracking.progress_bar import progress_bar


@dataclass(frozen=True)
class StoragePolicy:
    """The resolution at which samples are stored for later epochs, with a cache and without one.

    Images are stored at `factor` times the network's size; with a factor other than 1 never larger than the original. Labels
    have the same size, or with `full_size_labels` their original one, at which scores are computed.
    """

    preprocess: Preprocess
    factor: float = 1.0
    full_size_labels: bool = False

    def __call__(self, sample: Sample) -> Sample:
        """Resize (H, W, 3) uint8 RGB and (H, W) uint8 train ids to what is stored of them; see `reduce_images`."""
        rgb, labels = sample
        size = self.stored_size(*rgb.shape[:2])
        return resize_image(rgb, size), labels if self.full_size_labels else resize_label(labels, size)

    def reduce_images(self, dataset: Dataset) -> Dataset:
        """Return a dataset with images as they are stored from: as in production, if scores are computed on them."""
        return reduce_images(dataset, self.preprocess) if self.full_size_labels else dataset

    def stored_size(self, height: int, width: int) -> Size:
        """Return the stored size of an image of the given size."""
        network_size = self.preprocess.output_size(height, width)
        if self.factor == 1:
            return network_size
        scaled = round(network_size[0] * self.factor), round(network_size[1] * self.factor)
        return scaled if scaled[0] * scaled[1] < height * width else (height, width)

    def network_size(self, height: int, width: int) -> Size:
        """Return the network's size for an image that is stored at the given size.

        It is that of the original image, which `output_size` of the stored one may miss by one stride because of rounding.
        """
        if self.factor == 1:
            return height, width
        fitted, stride = self.preprocess.output_size(height, width), self.preprocess.stride
        candidate = round(height / self.factor / stride) * stride, round(width / self.factor / stride) * stride
        is_near = all(abs(a - b) <= stride for a, b in zip(candidate, fitted, strict=True))
        is_inverse = (round(candidate[0] * self.factor), round(candidate[1] * self.factor)) == (height, width)
        return candidate if is_near and is_inverse else fitted  # otherwise a small image, stored at its original size


class SplitIndex(BaseModel):
    """The result of scanning a split and, in a cache file, the layout of its samples."""

    bad: dict[int, str] = {}  # index in the dataset -> why the sample can't be used
    pixels: list[int]  # of each class, in the stored labels
    digest: str = ""  # SHA-256 (hex) over the digests of the usable samples as they are stored
    # The same before resizing, whose last bits may differ between CPUs. Caches of earlier releases call it `source`.
    original_digest: str = Field("", validation_alias=AliasChoices("original_digest", "source"))
    # First 8 bytes (hex) of the SHA-256 of each usable image before resizing; empty in caches of earlier releases.
    image_digests: list[str] = []
    file: str = ""  # name of the cache file, empty without a cache
    sizes: list[tuple[int, int, int, int]] = []  # height and width of image and label, of the usable samples in order

    def valid_indices(self, dataset: Dataset) -> list[int]:
        """Return the indices of the usable samples."""
        return [index for index in range(len(dataset)) if index not in self.bad]


@dataclass
class _ScannedSample:
    sample: Sample  # as it is stored
    digest: bytes
    original_digest: bytes
    image_digest: str


class SplitScanner:
    """Decodes every sample of a split once, in parallel, and fills `index` with what it finds."""

    def __init__(self, dataset: Dataset, policy: StoragePolicy, timeout_s: float | None = None) -> None:
        self.dataset, self.policy, self.timeout_s = dataset, policy, timeout_s
        self.reduced = policy.reduce_images(dataset)
        self.index = SplitIndex(pixels=[0] * len(dataset.labels))

    def samples(self, title: str) -> Iterator[Sample]:
        """Yield the usable samples as they are stored, in order, with a progress bar; `index.bad` gets the others.

        Raises:
            TimeoutError: A sample takes longer than `timeout_s` to read.
        """
        index, num_classes = self.index, len(self.dataset.labels)
        pool, digest, original_digest = ThreadPoolExecutor(NUM_CPUS), hashlib.sha256(), hashlib.sha256()
        try:
            results = prefetch(pool, self._scan, range(len(self.dataset)), 2 * NUM_CPUS, self.timeout_s)
            for number, result in enumerate(progress_bar(title, items=results, total=len(self.dataset), unit="image")):
                if isinstance(result, InputError):
                    index.bad[number] = str(result)
                    continue
                image, labels = result.sample
                digest.update(result.digest)
                original_digest.update(result.original_digest)
                index.image_digests.append(result.image_digest)
                counts = np.bincount(labels.ravel(), minlength=256)[:num_classes]
                index.pixels = (np.array(index.pixels) + counts).tolist()
                index.sizes.append((*image.shape[:2], *labels.shape))
                yield result.sample
        except TimeoutError:
            name = self.dataset.sample_name(len(index.sizes) + len(index.bad))
            raise TimeoutError(f"{name}: could not be read in {self.timeout_s:g} s; check its drive") from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # without waiting for a read that hangs
        index.digest, index.original_digest = digest.hexdigest(), original_digest.hexdigest()

    def _scan(self, index: int) -> _ScannedSample | InputError:
        try:
            sample = read_sample(self.reduced, index)
            is_reduced = sample[0].shape[:2] != sample[1].shape
            whole = self.dataset[index] if is_reduced else sample  # Digests do not depend on the reduction.
        except InputError as error:  # Returned, so that the scan continues.
            return error
        stored = self.policy(sample)
        image_digest, original_digest = _digests(whole)
        return _ScannedSample(stored, _digests(stored)[1], original_digest, image_digest[:8].hex())


def _digests(sample: Sample) -> tuple[bytes, bytes]:
    """Return the SHA-256 of the image and that of image and labels."""
    image, labels = map(np.ascontiguousarray, sample)
    digest = hashlib.sha256(image.data)
    image_digest = digest.digest()
    digest.update(labels.data)
    return image_digest, digest.digest()


class ResizedDataset:
    """The usable samples of a split without a cache: read, decoded and resized at each access."""

    def __init__(self, source: Dataset, policy: StoragePolicy, index: SplitIndex) -> None:
        self.source, self.name, self.split, self.labels = source, source.name, source.split, source.labels
        self.policy, self._indices = policy, index.valid_indices(source)
        self._reduced = policy.reduce_images(source)

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Sample:
        return self.policy(read_sample(self._reduced, self._indices[index]))

    def sample_name(self, index: int) -> str:
        """Return the path of the image."""
        return self.source.sample_name(self._indices[index])
