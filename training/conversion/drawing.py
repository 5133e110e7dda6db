"""Rasterization of annotated objects: polygons, circles and run lengths as masks, and masks as a label map."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from core.errors import InputError
from core.images.encode import LabelMap
from core.images.limits import MAX_SIDE
from training.conversion.export import Size

Mask = npt.NDArray[np.bool_]  # (H, W), true inside an object
Points = Sequence[Sequence[float]]  # (x, y) in pixels; pixel (0, 0) is the square from (0, 0) to (1, 1)


def polygon_mask(polygons: Sequence[Points], size: Size) -> Mask:
    """Return the union of polygons as the COCO API rasterizes them. Parts outside the image are cut off.

    Raises:
        InputError: A polygon has fewer than three corners, or a corner is far outside the image or not finite.
    """
    flat = [np.asarray(points, np.float64).reshape(-1) for points in polygons]
    for coordinates in flat:
        if len(coordinates) < 6 or len(coordinates) % 2:
            raise InputError(f"a polygon of {len(coordinates)} coordinates; expected three corners or more")
        _check_coordinates(coordinates)  # The COCO API allocates memory for each pixel of an edge.
    runs = coco_mask.merge(coco_mask.frPyObjects([coordinates.tolist() for coordinates in flat], *size))
    mask: Mask = coco_mask.decode(runs).astype(bool)
    return mask


def circle_mask(center: Sequence[float], on_circle: Sequence[float], size: Size) -> Mask:
    """Return the pixels whose centers are in the circle around `center` through `on_circle`, both (x, y)."""
    _check_coordinates([*center, *on_circle])
    y, x = np.ogrid[: size[0], : size[1]]
    radius_squared = (on_circle[0] - center[0]) ** 2 + (on_circle[1] - center[1]) ** 2
    mask: Mask = (x + 0.5 - center[0]) ** 2 + (y + 0.5 - center[1]) ** 2 <= radius_squared
    return mask


def rectangle_mask(first: Sequence[float], second: Sequence[float], size: Size) -> Mask:
    """Return the rectangle between two opposite corners, both (x, y)."""
    (left, top), (right, bottom) = np.minimum(first, second), np.maximum(first, second)
    return polygon_mask([[(left, top), (right, top), (right, bottom), (left, bottom)]], size)


def patch_mask(patch: Mask, left: float, top: float, size: Size) -> Mask:
    """Return a mask with `patch` at a position in pixels. Parts outside the image are cut off."""
    _check_coordinates([left, top])
    mask = np.zeros(size, bool)
    x, y = round(left), round(top)
    visible = patch[max(-y, 0) : max(size[0] - y, 0), max(-x, 0) : max(size[1] - x, 0)]
    mask[max(y, 0) :, max(x, 0) :][: visible.shape[0], : visible.shape[1]] = visible
    return mask


def _check_coordinates(coordinates: npt.ArrayLike) -> None:
    """Raise InputError if coordinates are far outside any image, or not finite."""
    if not (np.abs(coordinates) <= 2 * MAX_SIDE).all():
        raise InputError("a point far outside the image")


def run_length_mask(counts: list[int] | str, run_size: Sequence[int], size: Size) -> Mask:
    """Return the mask of COCO run lengths: a list, or the string that the COCO API compresses it to.

    The lengths alternate between pixels outside and inside the object, outside first, in column-major order.

    Args:
        run_size: Height and width for which the run lengths were made.

    Raises:
        InputError: They were made for another size, or do not fit it.
    """
    if tuple(run_size) != size:
        raise InputError(f"a run-length mask of {run_size[1]}x{run_size[0]} pixels, but the image has {size[1]}x{size[0]}")
    lengths = decompress_run_lengths(counts) if isinstance(counts, str) else counts
    if min(lengths, default=0) < 0 or sum(lengths) != size[0] * size[1]:
        raise InputError(f"run lengths that do not add up to the {size[1]}x{size[0]} pixels of the image")
    flat = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    return flat.reshape(size, order="F")


def decompress_run_lengths(text: str) -> list[int]:
    """Return the run lengths in a compressed string of the COCO API.

    Each character holds five bits of a number, lowest first, and a sixth bit that is set if more follow. From the fourth
    number on, the difference to the number two places before is stored. (`pycocotools.mask.decode` returns uninitialized
    memory for a string that is too short.)

    Source: COCO API, `rleFrString` in maskApi.c.
    """
    lengths: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise InputError(f"compressed run lengths with the character {character!r}")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:  # the sign
            value -= 1 << shift
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
        value = shift = 0
    return lengths


def draw_smaller_over_larger(labels: LabelMap, objects: Iterable[tuple[int, Mask]]) -> None:
    """Draw masks with their label values into a label map; where they overlap, the one with the fewest pixels is on top.

    Of equal ones the last is on top. No mask may be empty.
    """
    drawn = np.full(labels.shape, labels.size, np.int64)  # number of pixels of the object that is on top
    for value, mask in objects:
        y, x = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = slice(y[0], y[-1] + 1), slice(x[0], x[-1] + 1)
        inside = np.ascontiguousarray(mask[box])
        pixels = np.count_nonzero(inside)
        visible = inside & (drawn[box] >= pixels)
        labels[box][visible], drawn[box][visible] = value, pixels


def blank_labels(size: Size, value: int) -> LabelMap:
    """Return a label map (H, W) uint8 of one value."""
    return np.full(size, value, np.uint8)


def check_size(declared: tuple[Any, Any], size: Size) -> None:
    """Raise InputError if an annotation was made for an image of another size, (height, width); None is unknown."""
    if None not in declared and declared != size:
        hint = "; its EXIF orientation rotates the image" * (declared == size[::-1])
        raise InputError(
            f"the annotation is for {declared[1]}x{declared[0]} pixels, but the image has {size[1]}x{size[0]}{hint}"
        )
