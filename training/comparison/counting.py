"""One pass of all models over the data: each picture is decoded once and goes through them in turn, so that they meet the
same machine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from core.data.datasets import Dataset, Sample
from core.data.labels import VOID
from core.evaluation import metrics
from core.evaluation.report import Definition, EvaluationCounts
from core.images.encode import Labels
from core.images.resize import resize_label
from training.comparison.contestants import Contestant
from training.tracking.progress_bar import bar

BINS = 15  # of the reliability curve, as in Guo et al. 2017 ("On calibration of modern neural networks", section 4)


@dataclass
class Counted:
    """What one model's pass gives."""

    exact: EvaluationCounts
    other: metrics.Counts  # (K, K + 1), by the other definition of the scores
    reliability: npt.NDArray[np.float64]  # (BINS, 3): valid pixels, their summed confidence, how many of them are right


def count_all(
    contestants: Sequence[Contestant], dataset: Dataset, other: Definition
) -> tuple[list[Counted], npt.NDArray[np.float64]]:
    """Counts of every model, and for each image (N,) the share of its valid pixels on which not all models agree."""
    images, classes = len(dataset), len(dataset.labels)
    counted = [Counted(EvaluationCounts.empty(images, classes), np.zeros((classes, classes + 1), np.int64), np.zeros((BINS, 3)))
               for _ in contestants]  # fmt: skip
    disagreement = np.zeros(images)
    for contestant in contestants:
        contestant.segmenter(dataset[0][0])  # the first run is slower than those that follow
    for index in bar(f"{len(contestants)} models", True, range(images), unit="image"):
        start = time.perf_counter()
        sample = dataset[index]  # and nothing else meanwhile: a thread that decodes ahead would slow the model it meets
        decoding = time.perf_counter() - start
        maps = [_count(*pair, index, sample, other) for pair in zip(contestants, counted, strict=True)]
        for each in counted:
            each.exact.seconds += decoding
        valid = sample[1] != VOID
        apart = np.any([labels != maps[0] for labels in maps[1:]], axis=0) if maps[1:] else np.zeros_like(valid)
        disagreement[index] = apart[valid].mean() if valid.any() else 0
    return counted, disagreement


def _count(contestant: Contestant, counted: Counted, index: int, sample: Sample, other: Definition) -> Labels:
    """Segment one sample, add to the counts, and return the label map."""
    (rgb, labels), segmenter = sample, contestant.segmenter
    size = (labels.shape[0], labels.shape[1])
    start = time.perf_counter()
    logits = segmenter.logits([segmenter.prepare(rgb)])[0]
    predicted = segmenter.label(logits, size)
    seconds = time.perf_counter() - start
    tally = counted.exact
    tally.add(index, metrics.confusion(labels, predicted, len(counted.other)))
    tally.milliseconds[index] = seconds * 1000
    tally.seconds += seconds
    confidence = segmenter.confidence(logits, size)
    _add_reliability(counted.reliability, labels, predicted, confidence)
    input_size = (logits.shape[1], logits.shape[2])
    scored = labels if other.at == "label" else resize_label(labels, input_size)
    answer = segmenter.label(logits, (scored.shape[0], scored.shape[1]), other.threshold)
    counted.other += metrics.confusion(scored, answer, len(counted.other))
    return predicted


def _add_reliability(
    bins: npt.NDArray[np.float64], labels: Labels, predicted: Labels, confidence: npt.NDArray[np.float32]
) -> None:
    valid = labels != VOID
    sure, right = confidence[valid].astype(np.float64), labels[valid] == predicted[valid]
    place = np.minimum((sure * len(bins)).astype(np.int64), len(bins) - 1)
    for column, weights in enumerate((None, sure, right)):
        bins[:, column] += np.bincount(place, weights, minlength=len(bins))


def calibration_error(bins: npt.NDArray[np.float64]) -> float:
    """Expected calibration error, 0..1: the mean over pixels of the distance between a bin's confidence and its accuracy."""
    return float(abs(bins[:, 1] - bins[:, 2]).sum() / max(bins[:, 0].sum(), 1))
