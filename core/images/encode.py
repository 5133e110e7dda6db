"""Label maps as images and numbers: indexed PNG, grayscale PNG, overlay, run lengths and class statistics."""

from __future__ import annotations

import struct
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from core.data.labels import LabelSpace
from core.images.decode import RGB
from core.images.sanitize import PNG_SIGNATURE

try:
    from isal.isal_zlib import compress, crc32
except ImportError:  # ISA-L is not available on every platform; zlib writes an equivalent file, more slowly
    from zlib import compress, crc32

LabelMap = npt.NDArray[np.uint8]  # (H, W) class indices, IGNORE_INDEX (255) for pixels without a class
GRAYSCALE, INDEXED = 0, 3  # PNG color types (W3C PNG, section 11.2.1)


def encode_indexed_png(labels: LabelMap, space: LabelSpace) -> bytes:
    """Encode class indices (H, W) uint8 as an indexed PNG whose 256-entry palette holds the class colors."""
    return _encode_8bit_png(labels, space.palette)


def encode_gray_png(labels: LabelMap | npt.NDArray[np.uint16]) -> bytes:
    """Encode class indices or label ids, (H, W) uint8 or uint16, as a grayscale PNG with 8 or 16 bits.

    Use it for readers that convert a palette to colors (OpenCV, torchvision).
    """
    if labels.dtype == np.uint8:
        return _encode_8bit_png(labels.astype(np.uint8, copy=False))
    return _encode_opencv(".png", labels, [cv2.IMWRITE_PNG_COMPRESSION, 1])


def encode_confidence_png(confidence: npt.NDArray[np.float32]) -> bytes:
    """Encode probabilities (H, W) float32, 0..1, as an 8-bit grayscale PNG: 0..255."""
    return _encode_opencv(".png", np.rint(confidence * 255).astype(np.uint8), [cv2.IMWRITE_PNG_COMPRESSION, 1])


def _encode_8bit_png(pixels: npt.NDArray[np.uint8], palette: npt.NDArray[np.uint8] | None = None) -> bytes:
    """Encode (H, W) uint8 as a PNG: indices into `palette` (256, 3) uint8, or gray values if it is None.

    The rows have no PNG filter: filters suit natural images, but label maps are runs of equal bytes, which they don't
    shorten. For 2048x1024 pixels this takes 0.4 ms with ISA-L; the encoders of Pillow and OpenCV take 13 to 16 ms.
    """
    height, width = pixels.shape
    rows = np.zeros((height, width + 1), np.uint8)  # column 0 is the filter type of each row, 0 for none
    rows[:, 1:] = pixels
    color_type = GRAYSCALE if palette is None else INDEXED
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, color_type, 0, 0, 0))]
    if palette is not None:
        chunks.append((b"PLTE", palette.tobytes()))
    chunks += [(b"IDAT", compress(rows, 1)), (b"IEND", b"")]
    return PNG_SIGNATURE + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc32(data, crc32(kind))) for kind, data in chunks
    )


def overlay(rgb: RGB, labels: LabelMap, space: LabelSpace, opacity: float = 0.5) -> RGB:
    """Blend the class colors over an image, (H, W, 3) uint8 RGB; pixels without a class keep the image's color."""
    blended = cv2.addWeighted(rgb, 1 - opacity, space.palette[labels], opacity, 0).astype(np.uint8, copy=False)
    ignored = labels >= len(space)
    blended[ignored] = rgb[ignored]
    return blended


def encode_jpeg(rgb: RGB, quality: int = 90) -> bytes:
    """Encode (H, W, 3) uint8 RGB as a JPEG without metadata."""
    return _encode_opencv(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])


def encode_png(rgb: RGB) -> bytes:
    """Encode (H, W, 3) uint8 RGB as a PNG without metadata."""
    return _encode_opencv(".png", rgb[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])


def _encode_opencv(suffix: str, pixels: npt.NDArray[np.uint8] | npt.NDArray[np.uint16], options: list[int]) -> bytes:
    """Encode (H, W) gray or (H, W, 3) BGR pixels with OpenCV."""
    ok, data = cv2.imencode(suffix, np.ascontiguousarray(pixels), options)
    if not ok:
        raise RuntimeError(f"OpenCV failed to encode an array of shape {pixels.shape} as {suffix}")
    return data.tobytes()


def count_classes(labels: LabelMap, num_classes: int) -> dict[int, int]:
    """Return the number of pixels of each class that occurs in a label map (H, W) uint8, by class index; the largest first."""
    pixels = np.bincount(labels.ravel(), minlength=256)[:num_classes]
    return {int(k): int(pixels[k]) for k in np.argsort(-pixels, kind="stable") if pixels[k]}


def mask_statistics(labels: LabelMap, space: LabelSpace) -> dict[str, Any]:
    """Return the `size` [h, w] of a label map and, for each class, its name, color, pixels, fraction and `counts`.

    `counts` are COCO uncompressed run lengths: they alternate between pixels outside and inside the class, outside
    first, in column-major order (the convention of `frUncompressedRLE` in the COCO API).
    """
    counts = run_lengths(labels, len(space))
    pixels = np.bincount(labels.ravel(), minlength=256)
    return {
        "size": [int(side) for side in labels.shape],
        "classes": [
            {
                "name": name,
                "color": list(space.colors[k]),
                "pixels": int(pixels[k]),
                "fraction": int(pixels[k]) / labels.size,
                "counts": counts[k],
            }
            for k, name in enumerate(space.names)
        ],
    }


def run_lengths(labels: LabelMap, num_classes: int) -> list[list[int]]:
    """Return the COCO uncompressed run lengths of each class, computed in one pass over the label map."""
    flat = labels.ravel(order="F")
    starts = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1))
    ends = np.append(starts[1:], flat.size)
    values = flat[starts]
    result: list[list[int]] = []
    for k in range(num_classes):
        runs = values == k
        edges = np.stack((starts[runs], ends[runs]), 1).ravel()
        counts = np.diff(np.concatenate(([0], edges, [flat.size])))
        # COCO omits a last run of length 0.
        result.append(counts[:-1].tolist() if len(counts) > 1 and counts[-1] == 0 else counts.tolist())
    return result
