"""Masks as files and numbers, read back by other people's readers."""

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

from core.data.labels import CITYSCAPES
from core.images import encode, png


@pytest.fixture
def labels() -> np.ndarray:
    rng = np.random.default_rng(0)
    labels = cv2.resize(rng.integers(0, 19, (7, 9), np.uint8), (61, 45), interpolation=cv2.INTER_NEAREST)
    labels[:3, :5] = 255
    return labels


def test_indexed_png_is_label_map_and_picture_at_once(labels: np.ndarray) -> None:
    picture = Image.open(io.BytesIO(encode.indexed_png(labels, CITYSCAPES)))
    assert picture.mode == "P"
    assert np.array_equal(np.asarray(picture), labels)
    assert np.array_equal(np.asarray(picture.convert("RGB")), CITYSCAPES.palette[labels])


def test_indexed_png_has_256_palette_entries_with_black_for_no_class(labels: np.ndarray) -> None:
    palette = np.array(Image.open(io.BytesIO(encode.indexed_png(labels, CITYSCAPES))).getpalette()).reshape(-1, 3)
    assert np.array_equal(palette, CITYSCAPES.palette)


def test_opencv_sees_the_colours_of_an_indexed_png(labels: np.ndarray) -> None:
    bgr = cv2.imdecode(np.frombuffer(encode.indexed_png(labels, CITYSCAPES), np.uint8), cv2.IMREAD_COLOR)
    assert np.array_equal(bgr[..., ::-1], CITYSCAPES.palette[labels])


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (333, 517)])
def test_png_of_any_size_and_content_is_read_back(shape: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png.png(noise)))), noise)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png.png(noise, CITYSCAPES.palette)))), noise)


def test_png_without_isal_is_made_by_zlib(labels: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "isal.isal_zlib", None)  # as where it can't be imported
    plain = runpy.run_path(png.__file__)
    assert plain["compress"] is zlib.compress
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(plain["png"](labels)))), labels)


def test_isal_is_there() -> None:
    assert png.compress is not zlib.compress


def test_grey_png_holds_the_same_values_for_opencv(labels: np.ndarray) -> None:
    read = cv2.imdecode(np.frombuffer(encode.grey_png(labels), np.uint8), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(read, labels)


def test_overlay_is_half_photograph_and_half_colour(labels: np.ndarray) -> None:
    rgb = np.full((*labels.shape, 3), 100, np.uint8)
    mixed = encode.overlay(rgb, labels, CITYSCAPES)
    expected = np.where((labels == 255)[..., None], 100, (100 + CITYSCAPES.palette[labels].astype(int)) / 2)
    assert np.abs(mixed - expected).max() <= 0.5


@pytest.mark.parametrize("shape", [(45, 61), (1, 1), (1, 50), (50, 1)])
def test_run_lengths_are_coco_s(shape: tuple[int, int]) -> None:
    labels = np.random.default_rng(1).integers(0, 3, shape).astype(np.uint8)
    for k, counts in enumerate(encode.run_lengths(labels, 4)):
        decoded = coco.decode(coco.frPyObjects({"size": list(shape), "counts": counts}, *shape))
        assert np.array_equal(decoded, labels == k)
        assert counts == coco_counts(labels == k)


def coco_counts(mask: np.ndarray) -> list[int]:
    """Run lengths by walking the pixels."""
    counts, current = [0], False
    for value in mask.ravel(order="F"):
        if value != current:
            counts.append(0)
            current = bool(value)
        counts[-1] += 1
    return counts


def test_description_tells_pixels_and_fractions(labels: np.ndarray) -> None:
    told = encode.description(labels, CITYSCAPES)
    assert told["size"] == [45, 61]
    assert [c["pixels"] for c in told["classes"]] == [int((labels == k).sum()) for k in range(19)]
    assert sum(c["fraction"] for c in told["classes"]) == pytest.approx((labels != 255).mean())
    assert told["classes"][10]["name"] == "sky" and told["classes"][10]["colour"] == [70, 130, 180]
