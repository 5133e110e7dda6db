"""Tests of core.inference.result: what a segmenter accepts, and what its result offers."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from core import Segmenter
from core.checkpoints.checkpoint import Calibration, read_checkpoint, write_checkpoint
from core.data.labels import CITYSCAPES
from core.errors import ImageError, InputError
from core.images.decode import decode_image
from core.images.encode import overlay
from core.inference.upsample import upsample_confidence
from tests.support.sample_images import encode_image, sample_image

RGB = sample_image()


@pytest.fixture(scope="module")
def segmenter(checkpoint: Path) -> Segmenter:
    return Segmenter(checkpoint)


@pytest.fixture
def street_png(tmp_path: Path) -> Path:
    path = tmp_path / "street.png"
    path.write_bytes(encode_image())
    return path


@pytest.mark.parametrize("kind", ["path", "string", "bytes", "array", "pillow image", "fortran array"])
def test_every_image_source_gives_equal_result(segmenter: Segmenter, street_png: Path, kind: str) -> None:
    source = {
        "path": street_png,
        "string": str(street_png),
        "bytes": street_png.read_bytes(),
        "array": RGB,
        "pillow image": Image.open(street_png),
        "fortran array": np.asfortranarray(RGB),
    }[kind]
    result = segmenter(source)
    assert np.array_equal(result.labels, segmenter.predict_batch([RGB])[0])
    assert np.array_equal(result.image, RGB) and result.size == (40, 60)


@pytest.mark.parametrize(
    "source",
    [RGB / 255, RGB[..., :1], RGB[None], RGB[..., 0], np.empty((0, 4, 3), np.uint8), 5, None],
    ids=["float", "one channel", "batch", "two axes", "empty", "number", "none"],
)
def test_other_source_is_rejected(segmenter: Segmenter, source: object) -> None:
    with pytest.raises(InputError, match=r"expected a path, an encoded image, a Pillow image, or \(H, W, 3\) uint8"):
        segmenter(source)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA"])
def test_pillow_image_of_other_mode_is_rejected_with_solution(segmenter: Segmenter, mode: str) -> None:
    with pytest.raises(InputError, match=rf"a Pillow image of mode {mode}; expected RGB: image\.convert\('RGB'\)"):
        segmenter(Image.fromarray(RGB).convert(mode))


def test_missing_or_invalid_file_is_rejected(segmenter: Segmenter, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere"):
        segmenter(tmp_path / "nowhere.png")
    with pytest.raises(ImageError):
        segmenter(b"nothing")


def test_class_fractions_are_sorted_and_match_labels(segmenter: Segmenter) -> None:
    result = segmenter(RGB)
    fractions = result.class_fractions
    assert list(fractions.values()) == sorted(fractions.values(), reverse=True)
    assert sum(fractions.values()) == pytest.approx(1)
    for name, fraction in fractions.items():
        assert fraction == result.class_mask(name).mean() == (result.labels == CITYSCAPES.names.index(name)).mean()


def test_color_mask_and_overlay_show_labels(segmenter: Segmenter) -> None:
    result = segmenter(RGB)
    assert np.array_equal(result.color_mask(), CITYSCAPES.palette[result.labels])
    assert np.array_equal(result.overlay(0.3), overlay(RGB, result.labels, CITYSCAPES, 0.3))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(result._repr_png_()))), result.overlay())
    with pytest.raises(InputError, match="expected 0 to 1"):
        result.overlay(50)


def test_save_writes_mask_or_overlay(segmenter: Segmenter, tmp_path: Path) -> None:
    result = segmenter(RGB)
    assert np.array_equal(np.asarray(Image.open(result.save(tmp_path / "new" / "mask.png"))), result.labels)
    assert np.array_equal(decode_image(result.save(str(tmp_path / "o.png"), overlay=True).read_bytes()), result.overlay())
    assert Image.open(result.save(tmp_path / "o.jpg", overlay=True)).format == "JPEG"
    with pytest.raises(InputError, match=r"ends in \.png"):
        result.save(tmp_path / "mask.jpg")


def test_result_converts_to_array_of_labels(segmenter: Segmenter) -> None:
    result = segmenter(RGB)
    assert np.array_equal(np.asarray(result), result.labels) and np.asarray(result, np.int64).dtype == np.int64
    assert not np.shares_memory(np.array(result, copy=True), result.labels)


def test_repr_has_size_and_classes(segmenter: Segmenter) -> None:
    result = segmenter(RGB)
    assert repr(result).startswith("<SegmentationResult 60x40: ") and next(iter(result.class_fractions)) in repr(result)


def test_list_of_images_gives_list_of_equal_results(segmenter: Segmenter, street_png: Path) -> None:
    images = [RGB, street_png, RGB[:13, :40], RGB[::-1].copy(), Image.open(street_png)]
    results = segmenter(images)
    assert [result.size for result in results] == [(40, 60), (40, 60), (13, 40), (40, 60), (40, 60)]
    assert segmenter([]) == []
    assert all(np.array_equal(result.labels, segmenter(image).labels) for result, image in zip(results, images, strict=True))


def test_class_mask_accepts_index(segmenter: Segmenter) -> None:
    result = segmenter(RGB)
    for k, name in enumerate(CITYSCAPES.names):
        assert np.array_equal(result.class_mask(k), result.class_mask(name))


@pytest.mark.parametrize("class_", ["lawn", 19, -1, "0"])
def test_class_mask_rejects_unknown_class(segmenter: Segmenter, class_: str | int) -> None:
    with pytest.raises(InputError, match=r"no class .*; known: 0 road, 1 sidewalk"):
        segmenter(RGB).class_mask(class_)


def test_confidence_is_probability_of_predicted_class(segmenter: Segmenter) -> None:
    (logits,) = segmenter.forward_batch([segmenter.preprocess_image(RGB)])
    upsampled = F.interpolate(torch.from_numpy(logits)[None], RGB.shape[:2], mode="bilinear", align_corners=False)[0]
    result = segmenter(RGB, confidence=True)
    assert np.allclose(result.confidence, upsampled.softmax(0).amax(0).numpy(), atol=1e-5)
    assert segmenter(RGB).confidence is None


def test_calibrated_confidence_divides_logits_by_temperature(segmenter: Segmenter, checkpoint: Path, tmp_path: Path) -> None:
    source = read_checkpoint(checkpoint)
    calibration = Calibration(temperature=2.0, ece_before=0.1, ece_after=0.0)
    path = tmp_path / "calibrated.safetensors"
    write_checkpoint(path, source.metadata.model_copy(update={"calibration": calibration}), source.tensors)
    (logits,) = segmenter.forward_batch([segmenter.preprocess_image(RGB)])
    result = Segmenter(path)(RGB, confidence=True)
    assert np.array_equal(result.confidence, upsample_confidence(logits / 2, RGB.shape[:2]))
    assert np.array_equal(result.labels, segmenter(RGB).labels)


def test_legend_lists_classes_that_occur(segmenter: Segmenter) -> None:
    result = segmenter(RGB)
    with_legend, plain = result.overlay(legend=True), result.overlay()
    assert np.array_equal(with_legend[: plain.shape[0]], plain) and with_legend.shape[1] == plain.shape[1]
    strip_colors = {tuple(color) for color in with_legend[plain.shape[0] :].reshape(-1, 3).tolist()}
    for name, color in zip(CITYSCAPES.names, CITYSCAPES.colors, strict=True):
        if len(set(color)) > 1:  # the edges of the text have all grays
            assert (color in strip_colors) == (name in result.class_fractions)
