"""Sliding-window inference: logits at native resolution from overlapping tiles, blended, in horizontal bands."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from core.images.decode import RGB
from core.images.resize import Size

Array = npt.NDArray[np.float32]
TILES_PER_BATCH = 8  # maximum number of tiles whose logits are in memory at once
OVERLAP = 0.25  # minimum overlap of neighboring tiles, as a fraction of a tile


def window_starts(side: int, tile: int) -> list[int]:
    """Return evenly spaced start positions of tiles that cover `side` without crossing its end; [0] if one covers it."""
    if side <= tile:
        return [0]
    step = max(1, tile - math.ceil(OVERLAP * tile))
    count = math.ceil((side - tile) / step) + 1
    return [round(n * (side - tile) / (count - 1)) for n in range(count)]


def blended_bands(rgb: RGB, tile: Size, forward: Callable[[Sequence[RGB]], Sequence[Array]]) -> Iterator[tuple[int, Array]]:
    """Yield the first row of each horizontal band of an image (H, W, 3), and its blended logits (K, rows, W) float32.

    Where tiles overlap, each is weighted by the distance of the pixel from the tile's edge. Only one band is in memory:
    the logits of a whole image of 50 megapixels and 19 classes would take 3.8 GB. The bands share one array, so copy a
    band to keep it.

    Args:
        tile: Height and width of a tile; smaller where the image is smaller.
        forward: Computes the logits (K, h, w) of up to TILES_PER_BATCH tiles (h, w, 3).
    """
    height, width = rgb.shape[:2]
    tile_height, tile_width = min(tile[0], height), min(tile[1], width)
    tops, lefts = window_starts(height, tile_height), window_starts(width, tile_width)
    weight = np.outer(_edge_distance(tile_height), _edge_distance(tile_width))
    logit_sum = np.zeros((0, tile_height, width), np.float32)  # the number of classes is known after the first tile
    weight_sum = np.zeros((tile_height, width), np.float32)
    for top, next_top in zip(tops, [*tops[1:], height], strict=True):
        for start in range(0, len(lefts), TILES_PER_BATCH):
            batch_lefts = lefts[start : start + TILES_PER_BATCH]
            tiles = [rgb[top : top + tile_height, left : left + tile_width] for left in batch_lefts]
            for left, logits in zip(batch_lefts, forward(tiles), strict=True):
                if not len(logit_sum):
                    logit_sum = np.zeros((len(logits), tile_height, width), np.float32)
                logit_sum[:, :, left : left + tile_width] += logits * weight
                weight_sum[:, left : left + tile_width] += weight
        rows = next_top - top  # no later tile covers these
        logit_sum[:, :rows] /= weight_sum[:rows]
        yield top, logit_sum[:, :rows]
        for buffer in (logit_sum, weight_sum):  # move the rows that the next tiles overlap to the top
            buffer[..., : tile_height - rows, :] = buffer[..., rows:, :].copy()
            buffer[..., tile_height - rows :, :] = 0


def _edge_distance(length: int) -> Array:
    """Return the distance of each pixel center from the nearer end, (length,) float32, in pixels."""
    position = np.arange(length, dtype=np.float32) + 0.5
    distance: Array = np.minimum(position, length - position)
    return distance
