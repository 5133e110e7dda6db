"""Evaluate a segmenting function on a dataset, or on one rank's shard of it, by counting pixels."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from core.data.datasets import Dataset, Sample, shard_batches
from core.data.labels import LabelSpace
from core.errors import InputError
from core.evaluation import metrics
from core.images.decode import RGB
from core.images.encode import LabelMap
from core.images.resize import Preprocess, Size, resize_label
from core.runtime.threads import parallel_map, prefetch

PREFETCH_THREADS, PREFETCH_BATCHES = 2, 2  # decoding of the batches that come next

# Label maps of images, each of the (height, width) that is given for it.
SegmentFn = Callable[[Sequence[RGB], Sequence[Size]], Sequence[LabelMap]]


@dataclass
class EvaluationCounts:
    """Pixel counts and times of an evaluation or of a shard of it; the sum over all shards is exactly the whole.

    Attributes:
        confusion: Confusion matrix of all images, (K, K + 1) int64.
        per_image: `metrics.class_totals` of each image, (N, 3, K) int64; zero for the images of other shards.
        milliseconds: Time to segment each image, (N,); zero for the images of other shards.
        seconds: Wall-clock time of the evaluation.
    """

    confusion: metrics.ConfusionMatrix
    per_image: npt.NDArray[np.int64]
    milliseconds: npt.NDArray[np.float64]
    seconds: float = 0

    @classmethod
    def empty(cls, images: int, classes: int) -> EvaluationCounts:
        """Return counts of zero for a dataset of `images` images."""
        per_image = np.zeros((images, 3, classes), np.int64)
        return cls(np.zeros((classes, classes + 1), np.int64), per_image, np.zeros(images))

    def add(self, index: int, confusion: metrics.ConfusionMatrix) -> None:
        """Add the confusion matrix (K, K + 1) of the image at this index of the dataset."""
        self.confusion += confusion
        self.per_image[index] = metrics.class_totals(confusion)


def evaluate_shard(
    segment: SegmentFn,
    dataset: Dataset,
    batch_size: int = 1,
    rank: int = 0,
    world_size: int = 1,
    on_batch: Callable[[int, Sequence[Sample]], None] | None = None,
    timeout_s: float | None = None,
    on_wait: Callable[[], None] = lambda: None,
) -> EvaluationCounts:
    """Segment a rank's shard of a dataset and count its pixels at the size of the labels.

    The next samples are decoded while a batch is segmented.

    Args:
        segment: The function to evaluate.
        dataset: The whole dataset.
        batch_size: Number of images that `segment` gets at once.
        rank: Which shard to evaluate, 0..world_size - 1.
        world_size: Number of shards.
        on_batch: Called after each batch with the number of finished images and the samples of the batch; an
            exception that it raises ends the evaluation.
        timeout_s: Maximum time to wait for a batch to be read, in seconds.
        on_wait: Called about once a second while a batch is read; an exception that it raises ends the evaluation.

    Raises:
        TimeoutError: A batch is not read within `timeout_s`.
    """
    classes = len(dataset.labels)
    counts = EvaluationCounts.empty(len(dataset), classes)
    start, finished = time.perf_counter(), 0
    batches = list(shard_batches(len(dataset), batch_size, rank, world_size))
    pool = ThreadPoolExecutor(max_workers=PREFETCH_THREADS)
    try:
        for batch, samples in _read_batches(pool, dataset, batches, timeout_s, on_wait):
            batch_start = time.perf_counter()
            predictions = segment([rgb for rgb, _ in samples], [(labels.shape[0], labels.shape[1]) for _, labels in samples])
            counts.milliseconds[batch] = (time.perf_counter() - batch_start) * 1000 / len(batch)
            pairs = [(labels, predicted) for (_, labels), predicted in zip(samples, predictions, strict=True)]
            matrices = parallel_map(lambda pair: metrics.confusion_matrix(*pair, classes), pairs)
            for index, matrix in zip(batch, matrices, strict=True):
                counts.add(index, matrix)
            finished += len(batch)
            if on_batch:
                on_batch(finished, samples)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    counts.seconds = time.perf_counter() - start
    return counts


def _read_batches(
    pool: Executor, dataset: Dataset, batches: Iterable[list[int]], timeout_s: float | None, on_wait: Callable[[], None]
) -> Iterator[tuple[list[int], list[Sample]]]:
    """Yield each batch of indices with its samples, read ahead. Raises TimeoutError; see `evaluate_shard`."""
    decoded = prefetch(pool, lambda batch: [dataset[index] for index in batch], batches, PREFETCH_BATCHES, timeout_s, on_wait)
    for batch in batches:
        try:
            samples = next(decoded)
        except TimeoutError:
            names = ", ".join(dataset.sample_name(index) for index in batch)
            raise TimeoutError(f"{names}: could not be read in {timeout_s:g} s; check the drive") from None
        yield batch, samples


class InputSizeDataset:
    """A dataset whose labels are resized to the network's input, so that they are scored at that size."""

    def __init__(self, dataset: Dataset, preprocess: Preprocess) -> None:
        self.dataset, self.preprocess = dataset, preprocess
        self.name, self.split, self.labels, self.sample_name = dataset.name, dataset.split, dataset.labels, dataset.sample_name

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        rgb, labels = self.dataset[index]
        return rgb, resize_label(labels, self.preprocess.output_size(*rgb.shape[:2]))


def require_same_labels(model: LabelSpace, data: LabelSpace) -> None:
    """Raise InputError if the classes of a model differ from those of the data, on which it can't be scored then."""
    difference = model.describe_difference(data)
    if difference:
        raise InputError(
            f"the model has {len(model)} classes and the data {len(data)}: {difference};"
            " expected the same names in the same order"
        )
