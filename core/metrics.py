"""Confusion counts and the scores that follow from them: count every pixel, then divide once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from core.labels import VOID, LabelSpace

Counts = npt.NDArray[np.int64]  # (K, K + 1): rows labels, columns predictions, the last column "no class"


class FiveScores(BaseModel):
    """The five one-versus-rest scores, 0..1; None where there is nothing to divide by."""

    accuracy: float | None
    sensitivity: float | None
    specificity: float | None
    dice: float | None
    iou: float | None


class ClassScores(FiveScores):
    """Scores of one class; all None where it is absent from labels and predictions."""

    name: str
    label_pixels: int
    predicted_pixels: int


class Scores(BaseModel):
    """Scores of a data set, 0..1. `macro_iou` is the official mean IoU (Cordts et al. 2016, section 3.3), classes
    absent from labels and predictions left out; `macro_iou_labelled` is over the classes that the labels hold."""

    pixel_accuracy: float | None
    macro_iou: float | None
    macro_iou_labelled: float | None
    macro: FiveScores
    micro: FiveScores


def confusion(labels: npt.NDArray[np.uint8], predictions: npt.NDArray[np.uint8], num_classes: int) -> Counts:
    """Confusion matrix (K, K + 1) int64 of two label maps of one shape; void labels are not counted.

    A prediction of 255 ("no class", under a probability threshold) counts in the last column.
    """
    if labels.shape != predictions.shape:
        raise ValueError(f"labels are {labels.shape} and predictions {predictions.shape}; expected one shape")
    columns = num_classes + 1
    cell = labels.astype(np.uint16) * np.uint16(columns) + np.minimum(predictions, num_classes)
    counts = np.bincount(cell[labels != VOID], minlength=num_classes * columns)
    return counts.reshape(num_classes, columns).astype(np.int64, copy=False)


def class_counts(counts: Counts) -> Counts:
    """True positives, label pixels and predicted pixels per class: (3, K) int64."""
    square = counts[:, :-1]
    return np.stack((square.diagonal(), counts.sum(1), square.sum(0)))


def class_scores(counts: Counts, space: LabelSpace) -> list[ClassScores]:
    """Scores of each class, in the order of the label space."""
    true, labelled, predicted = class_counts(counts)
    total = int(labelled.sum())
    return [
        ClassScores(
            name=name,
            label_pixels=int(labelled[k]),
            predicted_pixels=int(predicted[k]),
            **_five(int(true[k]), int(predicted[k] - true[k]), int(labelled[k] - true[k]), total).model_dump(),
        )
        for k, name in enumerate(space.names)
    ]


def scores(counts: Counts, space: LabelSpace) -> Scores:
    """Scores of the whole data set from its summed confusion matrix."""
    classes = class_scores(counts, space)
    true, labelled, predicted = (int(row.sum()) for row in class_counts(counts))
    return Scores(
        pixel_accuracy=_ratio(true, labelled),
        macro_iou=_mean([c.iou for c in classes]),
        macro_iou_labelled=_mean([c.iou for c in classes if c.label_pixels]),
        macro=FiveScores(**{key: _mean([getattr(c, key) for c in classes]) for key in FiveScores.model_fields}),
        # the micro scores sum the one-versus-rest counts of all classes: each pixel stands in len(space) of them
        micro=_five(true, predicted - true, labelled - true, labelled * len(space)),
    )


def log_loss(logits: npt.NDArray[np.float32], labels: npt.NDArray[np.uint8]) -> tuple[float, int]:
    """Summed cross-entropy in nats of logits (K, h, w) against train ids (h, w), and the valid pixels in the sum."""
    valid = labels != VOID
    scores = logits.transpose(1, 2, 0)[valid].astype(np.float64)  # (pixels, K)
    top = scores.max(1, initial=-np.inf)
    total = np.log(np.exp(scores - top[:, None]).sum(1)) + top
    return float((total - scores[np.arange(len(scores)), labels[valid]]).sum()), len(scores)


def _five(true_positive: int, false_positive: int, false_negative: int, total: int) -> FiveScores:
    union = true_positive + false_positive + false_negative
    if not union:
        return FiveScores(accuracy=None, sensitivity=None, specificity=None, dice=None, iou=None)
    true_negative = total - union
    return FiveScores(
        accuracy=(true_positive + true_negative) / total,
        # a class that is predicted and never labelled has found nothing of what it claims
        sensitivity=_ratio(true_positive, true_positive + false_negative) or 0.0,
        specificity=_ratio(true_negative, true_negative + false_positive),
        dice=2 * true_positive / (union + true_positive),
        iou=true_positive / union,
    )


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
