"""Confusion matrices and the scores that follow from them: all pixels are counted, then divided once.

K is the number of classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from core.data.labels import IGNORE_INDEX, LabelSpace

ConfusionMatrix = npt.NDArray[np.int64]  # (K, K + 1): rows are labels, columns predictions, the last one void
METRIC_NAMES = ("accuracy", "sensitivity", "specificity", "dice", "iou")
SCORE_NAMES = (
    "pixel_accuracy",
    "miou_present",
    *(f"macro_{name}" for name in METRIC_NAMES[:-1]),
    "miou",
    *(f"micro_{name}" for name in METRIC_NAMES),
)


class OneVsRestScores(BaseModel):
    """The five one-versus-rest scores, 0..1; None if undefined."""

    accuracy: float | None
    sensitivity: float | None
    specificity: float | None
    dice: float | None
    iou: float | None


class ClassScores(OneVsRestScores):
    """Scores of one class; all None if it occurs neither in labels nor in predictions."""

    name: str
    label_pixels: int
    predicted_pixels: int


class Scores(BaseModel):
    """Scores of a dataset, 0..1; None if undefined.

    Attributes:
        pixel_accuracy: Fraction of the valid pixels with the correct class.
        miou: Mean IoU over the classes that occur in labels or predictions. Source: Cordts et al. 2016, "The
            Cityscapes Dataset for Semantic Urban Scene Understanding", section 3.3.
        miou_present: Mean IoU over the classes that occur in labels.
        macro: Means of the scores over classes.
        micro: Scores from counts that are summed over classes.
    """

    pixel_accuracy: float | None
    miou: float | None
    miou_present: float | None
    macro: OneVsRestScores
    micro: OneVsRestScores

    def by_name(self) -> dict[str, float | None]:
        """Return every score by its name in SCORE_NAMES."""
        means = {f"{kind}_{name}": getattr(getattr(self, kind), name) for kind in ("macro", "micro") for name in METRIC_NAMES}
        return {name: means[name] if name in means else getattr(self, name) for name in SCORE_NAMES}


def confusion_matrix(labels: npt.NDArray[np.uint8], predictions: npt.NDArray[np.uint8], num_classes: int) -> ConfusionMatrix:
    """Return the confusion matrix (K, K + 1) int64 of two label maps of the same shape; void labels are not counted.

    A prediction of IGNORE_INDEX, which a probability threshold causes, counts in the last column.
    """
    if labels.shape != predictions.shape:
        raise ValueError(f"labels have shape {labels.shape} and predictions {predictions.shape}; expected equal shapes")
    columns = num_classes + 1
    cell = labels.astype(np.uint16) * np.uint16(columns) + np.minimum(predictions, num_classes)
    counts = np.bincount(cell[labels != IGNORE_INDEX], minlength=num_classes * columns)
    return counts.reshape(num_classes, columns).astype(np.int64, copy=False)


def class_totals(counts: ConfusionMatrix) -> ConfusionMatrix:
    """Return the true positives, label pixels and predicted pixels of each class: (3, K) int64."""
    square = counts[:, :-1]
    return np.stack((square.diagonal(), counts.sum(1), square.sum(0)))


def one_vs_rest_scores(counts: npt.NDArray[Any], total: npt.NDArray[Any] | float) -> dict[str, npt.NDArray[np.float64]]:
    """Return the one-versus-rest scores, (..., K) by name.

    `counts` (..., 3, K) are those of `class_totals`, `total` (...,) is the number of valid pixels. A score is NaN if its
    denominator is 0 or its class occurs neither in labels nor in predictions. The sensitivity of a class that is predicted
    but occurs in no label is 0.
    """
    true, labeled, predicted = (np.asarray(counts[..., row, :], np.float64) for row in range(3))
    total = np.asarray(total, np.float64)[..., None]
    union = labeled + predicted - true
    with np.errstate(divide="ignore", invalid="ignore"):
        present = np.where(union > 0, 1.0, np.nan)
        return {
            "accuracy": present * (total - union + true) / total,
            "sensitivity": present * np.where(labeled > 0, true / labeled, 0),
            "specificity": present * (total - union) / (total - labeled),
            "dice": 2 * true / (union + true),
            "iou": true / union,
        }


def score_vector(counts: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the scores in the order of SCORE_NAMES, (..., 12), from counts (..., 3, K) of `class_totals`; NaN if undefined."""
    true, labeled, _ = (counts[..., row, :] for row in range(3))
    pixels = labeled.sum(-1)
    per_class = one_vs_rest_scores(counts, pixels)
    with np.errstate(divide="ignore", invalid="ignore"):
        columns = [true.sum(-1) / np.float64(pixels), _mean(per_class["iou"], labeled > 0)]
    columns += [_mean(values, np.isfinite(values)) for values in per_class.values()]
    # Micro scores sum the one-versus-rest counts of all classes, so each pixel counts K times.
    micro = one_vs_rest_scores(counts.sum(-1, keepdims=True), pixels * counts.shape[-1])
    return np.stack(columns + [values[..., 0] for values in micro.values()], -1)


def class_scores(confusion: ConfusionMatrix, labels: LabelSpace) -> list[ClassScores]:
    """Return the scores of each class, in the order of the label space."""
    totals = class_totals(confusion)
    per_class = one_vs_rest_scores(totals, totals[1].sum())
    return [
        ClassScores(
            name=name,
            label_pixels=int(totals[1, k]),
            predicted_pixels=int(totals[2, k]),
            **{key: _none_if_nan(values[k]) for key, values in per_class.items()},
        )
        for k, name in enumerate(labels.names)
    ]


def scores(confusion: ConfusionMatrix) -> Scores:
    """Return the scores of a dataset from the sum of the confusion matrices of its images."""
    return scores_of_totals(class_totals(confusion))


def scores_of_totals(totals: npt.NDArray[np.int64]) -> Scores:
    """Return the scores of a dataset from the sum of the `class_totals` of its images, (3, K)."""
    values = map(_none_if_nan, score_vector(totals))
    by_name = dict(zip(SCORE_NAMES, values, strict=True))
    return Scores(
        **{name: by_name[name] for name in ("pixel_accuracy", "miou", "miou_present")},
        macro=OneVsRestScores(**{name: by_name["miou" if name == "iou" else f"macro_{name}"] for name in METRIC_NAMES}),
        micro=OneVsRestScores(**{name: by_name[f"micro_{name}"] for name in METRIC_NAMES}),
    )


def cross_entropy_sum(logits: npt.NDArray[np.float32], labels: npt.NDArray[np.uint8]) -> tuple[float, int]:
    """Return the summed cross-entropy, in nats, of logits (K, h, w) for train ids (h, w), and the number of valid pixels."""
    valid = labels != IGNORE_INDEX
    largest = logits.max(0)
    log_sum_exp = np.log(np.exp(logits - largest).sum(0)) + largest
    label_logits = np.take_along_axis(logits, np.where(valid, labels, 0)[None].astype(np.intp), 0)[0]
    return float((log_sum_exp - label_logits).sum(where=valid, dtype=np.float64)), int(valid.sum())


def _mean(values: npt.NDArray[np.float64], mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Return the mean over the last axis of the values in the mask; NaN if it is empty."""
    with np.errstate(divide="ignore", invalid="ignore"):
        mean: npt.NDArray[np.float64] = np.where(mask, values, 0).sum(-1) / np.float64(mask.sum(-1))
    return mean


def _none_if_nan(value: np.float64) -> float | None:
    return float(value) if np.isfinite(value) else None
