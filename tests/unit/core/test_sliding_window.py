"""Tests of core.inference.sliding_window: window positions, blending and memory."""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest

from core.inference.sliding_window import OVERLAP, blended_bands, window_starts

TILE = (16, 24)


def pixelwise_network(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return logits (5, h, w) that depend on one pixel each, so that tiles must not change them."""
    weights = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    return [np.tensordot(weights, x.transpose(2, 0, 1).astype(np.float32), 1) for x in inputs]


def random_image(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize(("side", "tile"), [(1, 16), (16, 16), (17, 16), (28, 16), (29, 16), (1000, 16), (7, 2), (50, 1)])
def test_windows_cover_side_and_overlap(side: int, tile: int) -> None:
    starts = window_starts(side, tile)
    assert starts[0] == 0 and starts[-1] + min(tile, side) == side
    max_step = tile - OVERLAP * tile if tile > 1 else 1
    assert all(0 < after - before <= max_step for before, after in itertools.pairwise(starts))


@pytest.mark.parametrize("size", [(1, 1), (16, 24), (17, 25), (50, 100), (200, 10), (15, 300)])
def test_blended_logits_of_pixelwise_network_equal_whole_image(size: tuple[int, int]) -> None:
    rgb = random_image(*size)
    blended = np.full((5, *size), np.nan)
    for top, logits in blended_bands(rgb, TILE, pixelwise_network):
        blended[:, top : top + logits.shape[1]] = logits
    assert np.allclose(blended, pixelwise_network([rgb])[0], rtol=1e-5, atol=1e-2)


def test_overlap_is_weighted_by_distance_from_tile_edge() -> None:
    tile_values = iter((0.0, 1.0))
    bands = blended_bands(
        np.zeros((1, 28, 3), np.uint8), (1, 16), lambda tiles: [np.full((1, 1, 16), next(tile_values)) for _ in tiles]
    )
    _, logits = next(bands)
    # Pixels 12 to 15 are in both tiles; these are their distances from the end of the left and the start of the right tile.
    left, right = np.arange(3.5, 0, -1), np.arange(0.5, 4)
    assert np.allclose(logits[0, 0], [0] * 12 + (right / (left + right)).tolist() + [1] * 12)


def test_only_one_band_is_in_memory() -> None:
    rgb = random_image(4000, 64)
    whole_logits_bytes = 5 * rgb.shape[0] * rgb.shape[1] * 4
    tracemalloc.start()
    for _ in blended_bands(rgb, (16, 64), pixelwise_network):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < whole_logits_bytes / 20
