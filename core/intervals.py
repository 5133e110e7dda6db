"""95 % intervals of the scores by resampling images in blocks, because the frames of a film are not independent."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

RESAMPLES = 1000

Interval = tuple[float, float]


def block_length(series: npt.NDArray[np.float64]) -> int:
    """Images in a block: the lag from which the autocorrelation of `series` (N,) is below 2/sqrt(N), at most N/4."""
    count = len(series)
    centred = series - series.mean()
    variance = float(centred @ centred)
    longest = max(1, count // 4)
    if variance == 0:
        return 1
    for lag in range(1, longest):
        if float(centred[:-lag] @ centred[lag:]) / variance < 2 / count**0.5:
            return lag
    return longest


def intervals(counts: npt.NDArray[np.int64]) -> dict[str, Interval | None]:
    """95 % intervals of pixel_accuracy, macro_iou and macro_iou_labelled.

    `counts` is (N, 3, K): per image, in the order of the data set, true positives, label pixels and predicted pixels
    of each class (`core.metrics.class_counts`). Circular block bootstrap (Politis and Romano 1992), seeded.
    """
    names = ("pixel_accuracy", "macro_iou", "macro_iou_labelled")
    images = len(counts)
    if images < 2:
        return dict.fromkeys(names)
    with np.errstate(divide="ignore", invalid="ignore"):
        accuracy = np.nan_to_num(counts[:, 0].sum(1) / counts[:, 1].sum(1))
    length = block_length(accuracy)
    rng = np.random.default_rng(0)
    draws = np.empty((RESAMPLES, 3))
    for draw in draws:
        starts = rng.integers(images, size=-(-images // length))
        chosen = ((starts[:, None] + np.arange(length)) % images).ravel()[:images]
        draw[:] = _scores(counts[chosen].sum(0))
    result: dict[str, Interval | None] = {}
    for name, column in zip(names, draws.T, strict=True):
        known = column[np.isfinite(column)]
        low, high = np.quantile(known, (0.025, 0.975)) if known.size else (np.nan, np.nan)
        result[name] = (float(low), float(high)) if known.size else None
    return result


def _scores(counts: npt.NDArray[np.int64]) -> tuple[float, float, float]:
    true, labelled, predicted = counts
    with np.errstate(divide="ignore", invalid="ignore"):
        iou = true / (labelled + predicted - true)
        accuracy = float(np.float64(true.sum()) / labelled.sum())
    seen, held = labelled + predicted > 0, labelled > 0
    return accuracy, _mean(iou[seen]), _mean(iou[held])


def _mean(values: npt.NDArray[np.float64]) -> float:
    return float(values.mean()) if values.size else float("nan")
