"""Native resolution: a photograph at its own scale, in overlapping tiles blended by distance from the edge, band by band."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from core.images.decode import RGB
from core.images.resize import Size

Array = npt.NDArray[np.float32]
TOGETHER = 8  # tiles whose logits are in memory at once
OVERLAP = 0.25  # of a tile, at least: there each of the two counts by how far its edge is


def places(side: int, tile: int) -> list[int]:
    """Where tiles begin along a side, evenly, each of them inside; one where the side is no longer than a tile."""
    if side <= tile:
        return [0]
    step = max(1, tile - math.ceil(OVERLAP * tile))
    count = math.ceil((side - tile) / step) + 1
    return [round(n * (side - tile) / (count - 1)) for n in range(count)]


def bands(rgb: RGB, tile: Size, logits_of: Callable[[Sequence[RGB]], Sequence[Array]]) -> Iterator[tuple[int, Array]]:
    """The first row of each band of a photograph (H, W, 3), and its blended logits (K, rows, W), float32.

    `logits_of` gets some tiles (h, w, 3) of a band. A band at a time is in memory, never the logits of
    the whole picture: those of 19 classes and 50 megapixels would be 3.8 GB. The next band is made in the same array.
    """
    height, width = rgb.shape[:2]
    tall, wide = min(tile[0], height), min(tile[1], width)
    tops, lefts = places(height, tall), places(width, wide)
    weight = np.outer(_ramp(tall), _ramp(wide))
    summed = np.zeros((0, tall, width), np.float32)
    weights = np.zeros((tall, width), np.float32)
    for top, following in zip(tops, [*tops[1:], height], strict=True):
        for some in range(0, len(lefts), TOGETHER):
            together = lefts[some : some + TOGETHER]
            tiles = [rgb[top : top + tall, left : left + wide] for left in together]
            for left, logits in zip(together, logits_of(tiles), strict=True):
                if not len(summed):
                    summed = np.zeros((len(logits), tall, width), np.float32)
                summed[:, :, left : left + wide] += logits * weight
                weights[:, left : left + wide] += weight
        rows = following - top
        summed[:, :rows] /= weights[:rows]
        yield top, summed[:, :rows]
        for held in (summed, weights):  # what the next band adds to comes first
            held[..., : tall - rows, :] = held[..., rows:, :].copy()
            held[..., tall - rows :, :] = 0


def _ramp(length: int) -> Array:
    """Distance from the nearer end, in pixels."""
    position = np.arange(length, dtype=np.float32) + 0.5
    ramp: Array = np.minimum(position, length - position)
    return ramp
