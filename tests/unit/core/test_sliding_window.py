"""Tiles: every pixel in one or more, blended by distance from the edge, a band in memory at a time; and mirror images."""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from core.errors import InputError
from core.inference.segmenter import How, Segmenter
from core.inference.sliding_window import OVERLAP, bands, places

TILE = (16, 24)


def by_pixel(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """A network that sees one pixel at a time: tiles must not change what it says."""
    weights = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    return [np.tensordot(weights, x.transpose(2, 0, 1).astype(np.float32), 1) for x in inputs]


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize(("side", "tile"), [(1, 16), (16, 16), (17, 16), (28, 16), (29, 16), (1000, 16), (7, 2), (50, 1)])
def test_places_cover_the_side_and_overlap(side: int, tile: int) -> None:
    begins = places(side, tile)
    assert begins[0] == 0 and begins[-1] + min(tile, side) == side
    assert all(after - before <= tile - OVERLAP * tile for before, after in itertools.pairwise(begins) if tile > 1)


@pytest.mark.parametrize("size", [(1, 1), (16, 24), (17, 25), (50, 100), (200, 10), (15, 300)])
def test_blended_logits_of_a_network_of_pixels_are_those_of_the_whole(size: tuple[int, int]) -> None:
    rgb = picture(*size)
    found = np.full((5, *size), np.nan)
    for top, logits in bands(rgb, TILE, by_pixel):
        found[:, top : top + logits.shape[1]] = logits
    assert np.allclose(found, by_pixel([rgb])[0], rtol=1e-5, atol=1e-2)


def test_where_tiles_overlap_each_counts_by_its_distance_from_the_edge() -> None:
    numbers = iter((0.0, 1.0))
    tiles = bands(np.zeros((1, 28, 3), np.uint8), (1, 16), lambda xs: [np.full((1, 1, 16), next(numbers)) for _ in xs])
    _, logits = next(tiles)
    # pixels 12 to 15 are in both: so far are they from the left tile's end and from the right one's begin
    left, right = np.arange(3.5, 0, -1), np.arange(0.5, 4)
    assert np.allclose(logits[0, 0], [0] * 12 + (right / (left + right)).tolist() + [1] * 12)


def test_a_band_at_a_time_is_in_memory() -> None:
    rgb = picture(4000, 64)
    whole = 5 * rgb.shape[0] * rgb.shape[1] * 4
    tracemalloc.start()
    for _ in bands(rgb, (16, 64), by_pixel):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < whole / 20


def test_a_picture_no_larger_than_a_tile_goes_through_as_it_is(checkpoint: Path) -> None:
    segmenter, rgb = Segmenter(checkpoint), picture(64, 48)
    logits = segmenter.forward(rgb[None])[0]
    assert np.array_equal(segmenter.many([rgb], how=How(native=True))[0], segmenter.label(logits, (64, 48)))


def test_native_resolution_gives_a_label_map_of_the_picture_s_size(checkpoint: Path) -> None:
    labels = Segmenter(checkpoint).many([picture(130, 201)], how=How(native=True, flip=True))[0]
    assert labels.shape == (130, 201) and labels.max() < 19


def test_a_mirrored_photograph_gives_the_mirrored_label_map_with_flip(checkpoint: Path) -> None:
    segmenter, rgb = Segmenter(checkpoint), picture(64, 64)
    for native in (False, True):
        how = How(native, flip=True)
        turned = segmenter.many([np.ascontiguousarray(rgb[:, ::-1])], how=how)[0]
        assert np.mean(turned[:, ::-1] == segmenter.many([rgb], how=how)[0]) > 0.999


def test_flip_is_the_mean_of_both_logits(checkpoint: Path) -> None:
    segmenter, rgb = Segmenter(checkpoint), picture(64, 64)
    x = segmenter.prepare(rgb)
    there, back = segmenter.logits([x, x[:, ::-1]])
    assert np.allclose(segmenter.flipped([x], segmenter.logits)[0], (there + back[..., ::-1]) / 2)


def test_another_size_than_the_photograph_s_is_refused_at_native_resolution(checkpoint: Path) -> None:
    with pytest.raises(InputError, match="has the size of its photograph"):
        Segmenter(checkpoint).many([picture(64, 64)], [(32, 32)], how=How(native=True))
