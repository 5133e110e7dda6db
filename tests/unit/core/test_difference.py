"""Tests of core.evaluation.difference: paired differences of scores and of the IoU of each class."""

from __future__ import annotations

import numpy as np

from core.evaluation.difference import paired_differences

IMAGES, CLASSES, LABEL_PIXELS = 60, 3, 1000
SEQUENCES = ["a"] * IMAGES


def simulate_counts(iou: float, difficulty: np.ndarray) -> np.ndarray:
    """Return counts (N, 3, K) of a model with the given mean IoU, which drops with the difficulty (N,) of the images."""
    true = np.round(LABEL_PIXELS * np.clip(iou - difficulty, 0, 1)).astype(np.int64)[:, None].repeat(CLASSES, axis=1)
    label = np.full_like(true, LABEL_PIXELS)
    return np.stack([true, label, true], axis=1)


def test_differences_are_first_minus_second() -> None:
    difficulty = np.random.default_rng(0).uniform(0, 0.3, IMAGES)
    scores, classes = paired_differences(simulate_counts(0.9, difficulty), simulate_counts(0.8, difficulty), SEQUENCES)
    assert np.isclose(scores["miou_present"].value, 0.1, atol=1e-3)
    assert len(classes) == CLASSES and np.allclose([difference.value for difference in classes], 0.1, atol=1e-3)


def test_difference_on_same_images_is_narrower_than_on_others() -> None:
    rng = np.random.default_rng(0)
    difficulty, noise = rng.uniform(0, 0.3, IMAGES), rng.uniform(0, 0.01, IMAGES)
    first = simulate_counts(0.9, difficulty)
    paired, unpaired = (
        paired_differences(first, simulate_counts(0.89, other + noise), SEQUENCES)[0]["miou_present"]
        for other in (difficulty, rng.permutation(difficulty))
    )
    low, high = paired.interval
    assert 0 < low < high and high - low < (unpaired.interval[1] - unpaired.interval[0]) / 5


def test_class_that_occurs_nowhere_has_no_difference() -> None:
    counts = simulate_counts(0.9, np.random.default_rng(0).uniform(0, 0.3, IMAGES))
    counts[:, :, 2] = 0
    _, classes = paired_differences(counts, counts, SEQUENCES)
    assert (classes[0].value, classes[2].value, classes[2].interval) == (0, None, None)
