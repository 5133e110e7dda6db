"""Temperature scaling: one divisor of the logits that makes the confidence equal the accuracy.

Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize_scalar
from torch.nn.functional import cross_entropy

from core.checkpoints.checkpoint import Calibration
from core.data.datasets import Dataset, reduce_images
from core.data.labels import IGNORE_INDEX
from core.errors import InputError
from core.evaluation.reliability import BINS, add_reliability, calibration_error
from core.images.resize import resize_label
from core.inference.segmenter import Segmenter
from training.tracking.progress_bar import progress_bar

MAX_IMAGES, PIXELS_PER_IMAGE = 500, 2000
TEMPERATURES = 0.1, 10.0

Array = npt.NDArray[np.float32]


def fit_temperature(segmenter: Segmenter, dataset: Dataset) -> Calibration:
    """Find the temperature with the smallest cross-entropy on random pixels of evenly spaced images, at the network's size.

    Raises:
        InputError: All pixels are void.
    """
    rng, dataset = np.random.default_rng(0), reduce_images(dataset, segmenter.preprocess)
    logits: list[Array] = []
    labels: list[npt.NDArray[np.uint8]] = []
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
    inputs, targets = torch.from_numpy(all_logits).T, torch.from_numpy(all_labels).long()
    minimum = minimize_scalar(lambda temperature: float(cross_entropy(inputs / temperature, targets)), bounds=TEMPERATURES)
    temperature = round(float(minimum.x), 4)
    return Calibration(
        temperature=temperature,
        ece_before=_ece(all_logits, all_labels, 1.0),
        ece_after=_ece(all_logits, all_labels, temperature),
    )


def _ece(logits: Array, labels: npt.NDArray[np.uint8], temperature: float) -> float:
    scaled = logits / np.float32(temperature)
    confidence = 1 / np.exp(scaled - scaled.max(0)).sum(0)
    bins = np.zeros((BINS, 3))
    add_reliability(bins, labels, scaled.argmax(0).astype(np.uint8), confidence)
    return calibration_error(bins)
