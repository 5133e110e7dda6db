"""Tests of training.engine.running_confusion against the confusion matrix of core."""

from __future__ import annotations

import numpy as np
import torch

from core.data.labels import IGNORE_INDEX
from core.evaluation import metrics
from training.engine.running_confusion import confusion_matrix

K = 19


def test_confusion_matrix_matches_core() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, K, (3, 40, 50)).astype(np.uint8)
    predictions = np.where(rng.random(labels.shape) < 0.66, labels, rng.integers(0, K, labels.shape)).astype(np.uint8)
    labels[rng.random(labels.shape) < 0.1] = IGNORE_INDEX
    predictions[rng.random(labels.shape) < 0.1] = IGNORE_INDEX
    counts = confusion_matrix(torch.from_numpy(labels), torch.from_numpy(predictions), K)
    assert np.array_equal(counts.numpy(), metrics.confusion_matrix(labels, predictions, K))
