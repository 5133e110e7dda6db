"""Label maps as pictures and numbers: indexed PNG, grey PNG, overlay, run lengths, class statistics."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from core.data.labels import LabelSpace
from core.images.decode import RGB
from core.images.png import png

Labels = npt.NDArray[np.uint8]  # (H, W) class indices, 255 where there is no class


def indexed_png(labels: Labels, space: LabelSpace) -> bytes:
    """PNG whose pixel values are the class indices and whose 256-entry palette is the class colours."""
    return png(labels, space.palette)


def grey_png(labels: Labels | npt.NDArray[np.uint16]) -> bytes:
    """Grey PNG, of 8 or 16 bits as the array has, of class indices or label ids.

    It is for readers that turn a palette into colours (OpenCV, torchvision).
    """
    if labels.dtype == np.uint8:
        return png(labels.astype(np.uint8, copy=False))
    return _encode(".png", labels, [cv2.IMWRITE_PNG_COMPRESSION, 1])


def overlay(rgb: RGB, labels: Labels, space: LabelSpace, opacity: float = 0.5) -> RGB:
    """The photograph under the class colours: (H, W, 3) uint8 RGB. Pixels of no class stay as they are."""
    mixed = cv2.addWeighted(rgb, 1 - opacity, space.palette[labels], opacity, 0).astype(np.uint8, copy=False)
    nothing = labels >= len(space)
    mixed[nothing] = rgb[nothing]
    return mixed


def photo_jpeg(rgb: RGB, quality: int = 90) -> bytes:
    """(H, W, 3) uint8 RGB as JPEG, without metadata."""
    return _encode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])


def photo_png(rgb: RGB) -> bytes:
    """(H, W, 3) uint8 RGB as PNG, without metadata."""
    return _encode(".png", rgb[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])


def _encode(suffix: str, pixels: npt.NDArray[np.uint8] | npt.NDArray[np.uint16], options: list[int]) -> bytes:
    done, data = cv2.imencode(suffix, np.ascontiguousarray(pixels), options)
    if not done:
        raise RuntimeError(f"OpenCV could not encode {pixels.shape} as {suffix}")
    return data.tobytes()


def description(labels: Labels, space: LabelSpace) -> dict[str, Any]:
    """`size` [h, w] and per class name, colour, pixels, fraction and `counts`: COCO uncompressed run lengths.

    `counts` alternate between pixels outside and inside the class, outside first, in column-major order (the
    convention of the COCO API's `frUncompressedRLE`).
    """
    runs = run_lengths(labels, len(space))
    pixels = np.bincount(labels.ravel(), minlength=256)
    return {
        "size": [int(side) for side in labels.shape],
        "classes": [
            {
                "name": name,
                "colour": list(space.colours[k]),
                "pixels": int(pixels[k]),
                "fraction": int(pixels[k]) / labels.size,
                "counts": runs[k],
            }
            for k, name in enumerate(space.names)
        ],
    }


def run_lengths(labels: Labels, num_classes: int) -> list[list[int]]:
    """COCO uncompressed run lengths of every class, from one pass over the label map."""
    flat = labels.ravel(order="F")
    starts = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1))
    ends = np.append(starts[1:], flat.size)
    values = flat[starts]
    result: list[list[int]] = []
    for k in range(num_classes):
        mine = values == k
        edges = np.stack((starts[mine], ends[mine]), 1).ravel()
        counts = np.diff(np.concatenate(([0], edges, [flat.size])))
        # a last run of nothing is not written
        result.append(counts[:-1].tolist() if len(counts) > 1 and counts[-1] == 0 else counts.tolist())
    return result
