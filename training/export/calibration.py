"""Temperature scaling: one divisor of the logits that makes the confidence equal the accuracy.

Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from core.checkpoints.checkpoint import Calibration
from core.data.datasets import Dataset
from core.data.labels import IGNORE_INDEX
from core.errors import InputError
from core.evaluation.reliability import BINS, add_reliability, calibration_error
from core.images.resize import resize_label
from core.inference.segmenter import Segmenter
from training.tracking.progress_bar import progress_bar

MAX_IMAGES, PIXELS_PER_IMAGE = 500, 2000
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.1, 10.0
GOLDEN_RATIO = (5**0.5 - 1) / 2

Array = npt.NDArray[np.float32]


def fit_temperature(segmenter: Segmenter, dataset: Dataset) -> Calibration:
    """Find the temperature with the smallest cross-entropy on random pixels of evenly spaced images, at the network's size.

    Raises:
        InputError: All pixels are void.
    """
    rng = np.random.default_rng(0)
    logits, labels = [], []
    for index in progress_bar("calibrating", items=np.unique(np.linspace(0, len(dataset) - 1, MAX_IMAGES).astype(int))):
        rgb, full_labels = dataset[int(index)]
        image_logits = segmenter.backend.to_numpy(segmenter.forward_batch([segmenter.preprocess_image(rgb)])[0])
        small = resize_label(full_labels, (image_logits.shape[1], image_logits.shape[2]))
        pixels = rng.permutation(np.flatnonzero(small != IGNORE_INDEX))[:PIXELS_PER_IMAGE]
        logits.append(image_logits.reshape(len(image_logits), -1)[:, pixels])
        labels.append(small.ravel()[pixels])
    all_logits, all_labels = np.concatenate(logits, 1), np.concatenate(labels)
    if not all_labels.size:
        raise InputError(f"{dataset.name} {dataset.split}: every pixel is void, so the confidence can't be calibrated")
    temperature = _minimize_cross_entropy(all_logits, all_labels)
    return Calibration(
        temperature=round(temperature, 4),
        ece_before=_ece(all_logits, all_labels, 1.0),
        ece_after=_ece(all_logits, all_labels, temperature),
    )


def _minimize_cross_entropy(logits: Array, labels: npt.NDArray[np.uint8]) -> float:
    """Return the temperature with the smallest mean cross-entropy of logits (K, M) and labels (M,).

    The cross-entropy has one minimum, so a golden-section search over the logarithm finds it.
    """
    low, high = np.log(MIN_TEMPERATURE), np.log(MAX_TEMPERATURE)
    while high - low > 1e-3:
        a, b = high - GOLDEN_RATIO * (high - low), low + GOLDEN_RATIO * (high - low)
        if _cross_entropy(logits, labels, np.exp(a)) < _cross_entropy(logits, labels, np.exp(b)):
            high = b
        else:
            low = a
    return float(np.exp((low + high) / 2))


def _cross_entropy(logits: Array, labels: npt.NDArray[np.uint8], temperature: float) -> float:
    scaled = logits / np.float32(temperature)
    maximum = scaled.max(0)
    log_total = np.log(np.exp(scaled - maximum).sum(0)) + maximum
    return float((log_total - scaled[labels, np.arange(len(labels))]).mean())


def _ece(logits: Array, labels: npt.NDArray[np.uint8], temperature: float) -> float:
    scaled = logits / np.float32(temperature)
    confidence = 1 / np.exp(scaled - scaled.max(0)).sum(0)
    bins = np.zeros((BINS, 3))
    add_reliability(bins, labels, scaled.argmax(0).astype(np.uint8), confidence)
    return calibration_error(bins)
