"""Tests of core.images.encode: masks as files and numbers, read back with Pillow, OpenCV and pycocotools."""

from __future__ import annotations

import io
import runpy
import sys
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from core.data.labels import CITYSCAPES, IGNORE_INDEX
from core.images import encode


@pytest.fixture
def labels() -> np.ndarray:
    """A label map of 45x61 pixels with rectangular regions of all kinds and a void corner."""
    rng = np.random.default_rng(0)
    labels = cv2.resize(rng.integers(0, 19, (7, 9), np.uint8), (61, 45), interpolation=cv2.INTER_NEAREST)
    labels[:3, :5] = IGNORE_INDEX
    return labels


def open_png(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def test_indexed_png_holds_labels_and_colors(labels: np.ndarray) -> None:
    image = open_png(encode.encode_indexed_png(labels, CITYSCAPES))
    assert image.mode == "P"
    assert np.array_equal(np.asarray(image), labels)
    assert np.array_equal(np.asarray(image.convert("RGB")), CITYSCAPES.palette[labels])


def test_indexed_png_has_whole_palette(labels: np.ndarray) -> None:
    palette = np.array(open_png(encode.encode_indexed_png(labels, CITYSCAPES)).getpalette()).reshape(-1, 3)
    assert np.array_equal(palette, CITYSCAPES.palette)


def test_opencv_reads_colors_of_indexed_png(labels: np.ndarray) -> None:
    bgr = cv2.imdecode(np.frombuffer(encode.encode_indexed_png(labels, CITYSCAPES), np.uint8), cv2.IMREAD_COLOR)
    assert np.array_equal(bgr[..., ::-1], CITYSCAPES.palette[labels])


def test_opencv_reads_labels_of_gray_png(labels: np.ndarray) -> None:
    decoded = cv2.imdecode(np.frombuffer(encode.encode_gray_png(labels), np.uint8), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(decoded, labels)


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (333, 517)])
def test_png_of_any_size_is_read_back(shape: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    assert np.array_equal(np.asarray(open_png(encode.encode_gray_png(noise))), noise)
    assert np.array_equal(np.asarray(open_png(encode.encode_indexed_png(noise, CITYSCAPES))), noise)


def test_isal_is_used_if_installed() -> None:
    assert encode.compress is not zlib.compress


def test_zlib_is_used_without_isal(labels: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "isal.isal_zlib", None)  # Importing it raises ImportError.
    module = runpy.run_path(encode.__file__)
    assert module["compress"] is zlib.compress and module["crc32"] is zlib.crc32
    assert np.array_equal(np.asarray(open_png(module["encode_indexed_png"](labels, CITYSCAPES))), labels)


def test_overlay_blends_image_and_colors_except_void(labels: np.ndarray) -> None:
    rgb = np.full((*labels.shape, 3), 100, np.uint8)
    overlay = encode.overlay(rgb, labels, CITYSCAPES)
    expected = np.where((labels == IGNORE_INDEX)[..., None], 100, (100 + CITYSCAPES.palette[labels].astype(int)) / 2)
    assert np.abs(overlay - expected).max() <= 0.5


@pytest.mark.parametrize("shape", [(45, 61), (1, 1), (1, 50), (50, 1)])
def test_run_lengths_match_coco(shape: tuple[int, int]) -> None:
    labels = np.random.default_rng(1).integers(0, 3, shape).astype(np.uint8)
    for k, counts in enumerate(encode.run_lengths(labels, 4)):
        decoded = coco.decode(coco.frPyObjects({"size": list(shape), "counts": counts}, *shape))
        assert np.array_equal(decoded, labels == k)
        assert counts == run_lengths_by_pixel(labels == k)


def run_lengths_by_pixel(mask: np.ndarray) -> list[int]:
    """Return the run lengths of a mask by walking its pixels in column order."""
    counts, current = [0], False
    for value in mask.ravel(order="F"):
        if value != current:
            counts.append(0)
            current = bool(value)
        counts[-1] += 1
    return counts


def test_mask_statistics_count_pixels_of_each_class(labels: np.ndarray) -> None:
    statistics = encode.mask_statistics(labels, CITYSCAPES)
    classes = statistics["classes"]
    assert statistics["size"] == [45, 61]
    assert [c["pixels"] for c in classes] == [int((labels == k).sum()) for k in range(19)]
    assert sum(c["fraction"] for c in classes) == pytest.approx((labels != IGNORE_INDEX).mean())
    assert classes[10]["name"] == "sky" and classes[10]["color"] == [70, 130, 180]
