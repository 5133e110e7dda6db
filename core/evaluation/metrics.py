"""Confusion counts and the scores that follow from them: count every pixel, then divide once."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from core.data.labels import VOID, LabelSpace

Counts = npt.NDArray[np.int64]  # (K, K + 1): rows labels, columns predictions, the last column "no class"
FIVE = ("accuracy", "sensitivity", "specificity", "dice", "iou")
SCORES = ("pixel_accuracy", "macro_iou_labelled", *(f"macro_{name}" for name in FIVE), *(f"micro_{name}" for name in FIVE))


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

    def by_name(self) -> dict[str, float | None]:
        """Every score under its name in SCORES."""
        five = {f"{kind}_{name}": getattr(getattr(self, kind), name) for kind in ("macro", "micro") for name in FIVE}
        return {name: five[name] if name in five else getattr(self, name) for name in SCORES}


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


def five_scores(counts: npt.NDArray[Any], total: npt.NDArray[Any] | float) -> dict[str, npt.NDArray[np.float64]]:
    """The five one-versus-rest scores from counts (..., 3, K) of `class_counts` and all valid pixels (...,): each (..., K).

    NaN for a class that is absent from labels and predictions, and where nothing is there to divide by; a class that
    is predicted and never labelled has found nothing of what it claims: its sensitivity is 0.
    """
    true, labelled, predicted = (np.asarray(counts[..., row, :], np.float64) for row in range(3))
    total = np.asarray(total, np.float64)[..., None]
    union = labelled + predicted - true
    with np.errstate(divide="ignore", invalid="ignore"):
        there = np.where(union > 0, 1.0, np.nan)
        return {
            "accuracy": there * (total - union + true) / total,
            "sensitivity": there * np.where(labelled > 0, true / labelled, 0),
            "specificity": there * (total - union) / (total - labelled),
            "dice": 2 * true / (union + true),
            "iou": true / union,
        }


def leading(counts: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """The scores named in SCORES from counts (..., 3, K) of `class_counts`, as (..., 12); NaN where undefined."""
    true, labelled, _ = (counts[..., row, :] for row in range(3))
    pixels = labelled.sum(-1)
    five = five_scores(counts, pixels)
    with np.errstate(divide="ignore", invalid="ignore"):
        columns = [true.sum(-1) / np.float64(pixels), _mean(five["iou"], labelled > 0)]
    columns += [_mean(values, np.isfinite(values)) for values in five.values()]
    # the micro scores sum the one-versus-rest counts of all classes: each pixel stands in K of them
    together = five_scores(counts.sum(-1, keepdims=True), pixels * counts.shape[-1])
    return np.stack(columns + [values[..., 0] for values in together.values()], -1)


def class_scores(counts: Counts, space: LabelSpace) -> list[ClassScores]:
    """Scores of each class, in the order of the label space."""
    each = class_counts(counts)
    five = five_scores(each, each[1].sum())
    return [
        ClassScores(
            name=name,
            label_pixels=int(each[1, k]),
            predicted_pixels=int(each[2, k]),
            **{key: _known(values[k]) for key, values in five.items()},
        )
        for k, name in enumerate(space.names)
    ]


def scores(counts: Counts) -> Scores:
    """Scores of the whole data set from its summed confusion matrix."""
    known = {name: _known(value) for name, value in zip(SCORES, leading(class_counts(counts)), strict=True)}
    return Scores(
        **{name: known[name] for name in ("pixel_accuracy", "macro_iou", "macro_iou_labelled")},
        macro=FiveScores(**{name: known[f"macro_{name}"] for name in FIVE}),
        micro=FiveScores(**{name: known[f"micro_{name}"] for name in FIVE}),
    )


def log_loss(logits: npt.NDArray[np.float32], labels: npt.NDArray[np.uint8]) -> tuple[float, int]:
    """Summed cross-entropy in nats of logits (K, h, w) against train ids (h, w), and the valid pixels in the sum."""
    valid = labels != VOID
    top = logits.max(0)
    total = np.log(np.exp(logits - top).sum(0)) + top
    labelled = np.take_along_axis(logits, np.where(valid, labels, 0)[None].astype(np.intp), 0)[0]
    return float((total - labelled).sum(where=valid, dtype=np.float64)), int(valid.sum())


def _mean(values: npt.NDArray[np.float64], which: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Mean over the last axis of the values that count; NaN where none does."""
    with np.errstate(divide="ignore", invalid="ignore"):
        mean: npt.NDArray[np.float64] = np.where(which, values, 0).sum(-1) / np.float64(which.sum(-1))
    return mean


def _known(value: np.float64) -> float | None:
    return float(value) if np.isfinite(value) else None
