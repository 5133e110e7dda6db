"""Tests of training.tracking.tensorboard."""

from __future__ import annotations

import numpy as np

from core.data.labels import CITYSCAPES
from training.tracking.tensorboard import legend


def test_legend_shows_color_of_every_class() -> None:
    for width in (40, 500, 2000):
        image = legend(CITYSCAPES, width)
        assert image.shape[1] == width
        colors = {tuple(color) for color in np.unique(image.reshape(-1, 3), axis=0).tolist()}
        assert set(CITYSCAPES.colors) <= colors
