"""Evaluation: a segmenting function and a data set to the Report that every part of the system tells."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field

from core.data.datasets import Dataset, Sample, batches, drives
from core.data.labels import LabelSpace
from core.errors import InputError
from core.evaluation import metrics
from core.evaluation.bootstrap import Interval, intervals
from core.images.decode import RGB
from core.images.encode import Labels
from core.images.resize import Preprocess, Size, resize_label
from core.runtime.threads import at_once, prefetch

# photographs and the (height, width) that the label map of each is to have, to those label maps
SegmentFn = Callable[[Sequence[RGB], Sequence[Size]], Sequence[Labels]]


class CheckpointInfo(BaseModel):
    """Which artefact was evaluated."""

    name: str
    architecture: str
    digest: str
    backend: str


class DataInfo(BaseModel):
    """What it was evaluated on."""

    name: str
    split: str
    images: int


class Definition(BaseModel):
    """How pixels are scored: by default all of them, by argmax, at the label's own size.

    The earlier definition of this family of projects, for tables that were published with it: threshold 0.5 at the input.
    """

    threshold: float | None = Field(None, ge=0.5, lt=1)  # of softmax: less probable pixels are of no class
    at: Literal["label", "input"] = "label"  # the label's own size, or the network's
    resolution: Literal["network", "native"] = "network"  # photographs at the network's size, or by tiles at their own
    flip: bool = False  # logits averaged with those of the mirror image

    def how(self) -> list[str]:
        """In words, what goes through the network."""
        return ["at native resolution"] * (self.resolution == "native") + ["with its mirror image"] * self.flip

    def words(self) -> str:
        """In words, how it differs from the exact definition; empty where it does not."""
        parts = [f"softmax > {self.threshold}"] * (self.threshold is not None)
        return ", ".join(parts + ["at the network's size"] * (self.at == "input") + self.how())


EXACT, EARLIER = Definition(), Definition(threshold=0.5, at="input")


class Speed(BaseModel):
    """Images a second in wall time, decoding included, and milliseconds of segmenting per image."""

    images_per_s: float
    median_ms: float
    p95_ms: float


class Report(BaseModel):
    """One evaluation; scores are 0..1 and None where undefined, `confusion` has labels in rows."""

    checkpoint: CheckpointInfo
    data: DataInfo
    definition: Definition = EXACT
    scores: metrics.Scores
    classes: list[metrics.ClassScores]
    confusion: list[list[int]]
    intervals: dict[str, Interval | None]
    speed: Speed


@dataclass
class EvaluationCounts:
    """Counts of an evaluation, or of a rank's share of one; the sum of the shares is the whole, exactly."""

    confusion: metrics.Counts  # (K, K + 1)
    per_image: npt.NDArray[np.int64]  # (N, 3, K), zero for the images of other ranks
    milliseconds: npt.NDArray[np.float64]  # (N,), zero for the images of other ranks
    seconds: float = 0

    @classmethod
    def empty(cls, images: int, classes: int) -> EvaluationCounts:
        """Nothing counted yet."""
        per_image = np.zeros((images, 3, classes), np.int64)
        return cls(np.zeros((classes, classes + 1), np.int64), per_image, np.zeros(images))

    def add(self, index: int, matrix: metrics.Counts) -> None:
        """Count an image by its confusion matrix."""
        self.confusion += matrix
        self.per_image[index] = metrics.class_counts(matrix)


def evaluate_shard(
    segment: SegmentFn,
    dataset: Dataset,
    batch_size: int = 1,
    rank: int = 0,
    ranks: int = 1,
    progress: Callable[[int, Sequence[Sample]], None] | None = None,
    timeout_s: float | None = None,
    waiting_for_it: Callable[[], None] = lambda: None,
) -> EvaluationCounts:
    """Segment a rank's share of the data set and count; labels are scored at their own size.

    The next samples are decoded while one batch is segmented. `progress(done, samples)` is called after each batch;
    an exception from it ends the evaluation, and so does one of `waiting_for_it`, which is called about every second
    while a batch is read. Raises TimeoutError where one is not read within `timeout_s` seconds.
    """
    images, classes = len(dataset), len(dataset.labels)
    tally = EvaluationCounts.empty(images, classes)
    start = time.perf_counter()
    plan = list(batches(images, batch_size, rank, ranks))
    done = 0
    pool = ThreadPoolExecutor(max_workers=2)
    try:
        decoded = prefetch(pool, lambda batch: [dataset[index] for index in batch], plan, 2, timeout_s, waiting_for_it)
        for batch, samples in zip(plan, decoded, strict=True):
            began = time.perf_counter()
            predictions = segment([rgb for rgb, _ in samples], [(labels.shape[0], labels.shape[1]) for _, labels in samples])
            tally.milliseconds[batch] = (time.perf_counter() - began) * 1000 / len(batch)
            pairs = [(labels, predicted) for (_, labels), predicted in zip(samples, predictions, strict=True)]
            for index, matrix in zip(batch, at_once(lambda pair: metrics.confusion(*pair, classes), pairs), strict=True):
                tally.add(index, matrix)
            done += len(batch)
            if progress:
                progress(done, samples)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    tally.seconds = time.perf_counter() - start
    return tally


class AtInput:
    """A data set whose labels have the size of the network's input, to be scored there."""

    def __init__(self, dataset: Dataset, preprocess: Preprocess) -> None:
        self.dataset, self.preprocess = dataset, preprocess
        self.name, self.split, self.labels, self.where = dataset.name, dataset.split, dataset.labels, dataset.where

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        rgb, labels = self.dataset[index]
        return rgb, resize_label(labels, self.preprocess.shape(*labels.shape))


def build_report(
    tally: EvaluationCounts, checkpoint: CheckpointInfo, dataset: Dataset, definition: Definition = EXACT
) -> Report:
    """The document that tells a whole evaluation."""
    space: LabelSpace = dataset.labels
    return Report(
        checkpoint=checkpoint,
        data=DataInfo(name=dataset.name, split=dataset.split, images=len(dataset)),
        definition=definition,
        scores=metrics.scores(tally.confusion),
        classes=metrics.class_scores(tally.confusion, space),
        confusion=tally.confusion.tolist(),
        intervals=intervals(tally.per_image, drives(dataset)),
        speed=Speed(
            images_per_s=len(dataset) / tally.seconds,
            median_ms=float(np.median(tally.milliseconds)),
            p95_ms=float(np.quantile(tally.milliseconds, 0.95)),
        ),
    )


def require_same_labels(model: LabelSpace, data: LabelSpace) -> None:
    """Raise InputError where a model's classes can't be scored on the data."""
    difference = model.difference(data)
    if difference:
        raise InputError(
            f"the model has {len(model)} classes and the data {len(data)}: {difference};"
            " expected the same names in the same order"
        )
