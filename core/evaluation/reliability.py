"""Reliability: accuracy of the pixels by their confidence, and the expected calibration error."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from core.data.labels import IGNORE_INDEX

BINS = 15

Floats = npt.NDArray[np.float64]


def add_reliability(
    bins: Floats, labels: npt.NDArray[np.uint8], predicted: npt.NDArray[np.uint8], confidence: npt.NDArray[np.float32]
) -> None:
    """Add valid pixels to bins of equal width, (BINS, 3): number of pixels, sum of confidences, number of correct pixels.

    Args:
        labels: Train ids; pixels with IGNORE_INDEX are ignored.
        predicted: Predicted class indices, of the same shape.
        confidence: Probability of the predicted class, 0..1, of the same shape.
    """
    valid = labels != IGNORE_INDEX
    valid_confidence, correct = confidence[valid].astype(np.float64), labels[valid] == predicted[valid]
    bin_index = np.minimum((valid_confidence * len(bins)).astype(np.int64), len(bins) - 1)
    for column, weights in enumerate((None, valid_confidence, correct)):
        bins[:, column] += np.bincount(bin_index, weights, minlength=len(bins))


def calibration_error(bins: Floats) -> float:
    """Return the expected calibration error (ECE), 0..1: the mean over pixels of |confidence - accuracy| of their bin.

    Source: Naeini et al. 2015, "Obtaining Well Calibrated Probabilities Using Bayesian Binning".
    """
    return float(abs(bins[:, 1] - bins[:, 2]).sum() / max(bins[:, 0].sum(), 1))
