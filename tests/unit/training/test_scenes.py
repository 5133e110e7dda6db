"""Tests of training.synthetic.scenes: reproducible scenes with every class, labeled with Cityscapes ids."""

from __future__ import annotations

import numpy as np
import pytest

from core.data.labels import CITYSCAPES, IGNORE_INDEX
from training.synthetic.scenes import street_scene


def test_scene_depends_on_seed_only() -> None:
    first, second, other = (street_scene(np.random.default_rng(seed), 64, 128) for seed in (1, 1, 2))
    assert np.array_equal(first[0], second[0]) and np.array_equal(first[1], second[1])
    assert not np.array_equal(first[1], other[1])


def test_every_class_and_void_occur() -> None:
    train_ids: set[int] = set()
    for seed in range(60):
        label_ids = street_scene(np.random.default_rng(seed), 128, 256)[1]
        train_ids |= set(np.unique(CITYSCAPES.encode(label_ids)).tolist())
    assert train_ids == {*range(19), IGNORE_INDEX}


@pytest.mark.parametrize("size", [(64, 128), (100, 60), (256, 256)])
def test_scene_has_requested_size(size: tuple[int, int]) -> None:
    rgb, labels = street_scene(np.random.default_rng(0), *size)
    assert rgb.shape == (*size, 3) and labels.shape == size and rgb.dtype == labels.dtype == np.uint8
