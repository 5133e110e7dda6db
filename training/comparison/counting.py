"""One pass over the data with all models: each image is decoded once and segmented by every model in turn.

Taking turns exposes the models to the same load of the computer, so that their times are comparable.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from core.data.datasets import Dataset, Sample, reduce_images
from core.data.labels import IGNORE_INDEX
from core.evaluation import metrics
from core.evaluation.evaluator import EvaluationCounts
from core.evaluation.reliability import BINS, add_reliability
from core.evaluation.report import ScoringProtocol
from core.images.encode import LabelMap
from core.images.resize import resize_label
from training.comparison.models import ComparedModel
from training.tracking.progress_bar import progress_bar

Floats = npt.NDArray[np.float64]


@dataclass
class ModelCounts:
    """Counts of one model over the data set."""

    default: EvaluationCounts  # by the default protocol
    alternative_confusion: metrics.ConfusionMatrix  # (K, K + 1), by the alternative protocol
    reliability: Floats  # (BINS, 3): number of valid pixels, sum of their confidences, number of correct ones

    @classmethod
    def empty(cls, num_images: int, num_classes: int) -> ModelCounts:
        """Return counts of zero."""
        confusion = np.zeros((num_classes, num_classes + 1), np.int64)
        return cls(EvaluationCounts.empty(num_images, num_classes), confusion, np.zeros((BINS, 3)))


def count_all(
    models: Sequence[ComparedModel], dataset: Dataset, alternative: ScoringProtocol
) -> tuple[list[ModelCounts], Floats]:
    """Evaluate all models on a data set.

    Returns:
        The counts of each model, and for each image the fraction of its valid pixels on which the models disagree, (N,).
    """
    counts = [ModelCounts.empty(len(dataset), len(dataset.labels)) for _ in models]
    disagreement = np.zeros(len(dataset))
    # Models without reduced images share a decoded sample, as those with the same preprocessing do.
    keys = [p if p.reduce_jpeg else None for p in (model.segmenter.preprocess for model in models)]
    datasets = {key: reduce_images(dataset, key) if key else dataset for key in keys}
    for model in models:
        model.segmenter(dataset[0][0])  # warm-up: the first run is slower than the others
    for index in progress_bar(f"{len(models)} models", True, range(len(dataset)), unit="image"):
        samples, decoding_s = {}, {}
        for key, images in datasets.items():
            start = time.perf_counter()
            samples[key] = images[index]  # not prefetched: a decoding thread would slow down the model that is being timed
            decoding_s[key] = time.perf_counter() - start
        predictions = [
            _count_sample(model, model_counts, index, samples[key], alternative)
            for model, model_counts, key in zip(models, counts, keys, strict=True)
        ]
        for model_counts, key in zip(counts, keys, strict=True):
            model_counts.default.seconds += decoding_s[key]
        valid = samples[keys[0]][1] != IGNORE_INDEX
        differs = np.zeros_like(valid)
        for prediction in predictions[1:]:
            differs |= prediction != predictions[0]
        disagreement[index] = differs[valid].mean() if valid.any() else 0
    return counts, disagreement


def _count_sample(
    model: ComparedModel, counts: ModelCounts, index: int, sample: Sample, alternative: ScoringProtocol
) -> LabelMap:
    """Segment one sample, add it to the counts, and return the predicted label map (H, W)."""
    (rgb, labels), segmenter = sample, model.segmenter
    num_classes, size = len(segmenter.labels), (labels.shape[0], labels.shape[1])
    start = time.perf_counter()
    logits = segmenter.forward_batch([segmenter.preprocess_image(rgb)])[0]
    predicted = segmenter.postprocess(logits, size)
    seconds = time.perf_counter() - start
    counts.default.add(index, metrics.confusion_matrix(labels, predicted, num_classes))
    counts.default.milliseconds[index] = seconds * 1000
    counts.default.seconds += seconds
    add_reliability(counts.reliability, labels, predicted, segmenter.confidence(logits, size))
    scored = labels if alternative.score_size == "label" else resize_label(labels, (logits.shape[1], logits.shape[2]))
    alternative_prediction = segmenter.postprocess(logits, (scored.shape[0], scored.shape[1]), alternative.threshold)
    counts.alternative_confusion += metrics.confusion_matrix(scored, alternative_prediction, num_classes)
    return predicted
