"""Tests of core.inference.segmenter: bitwise equal results however images are batched, tiled and flipped results."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from core.errors import CheckpointError, InputError
from core.images.decode import load_image
from core.inference.options import InferenceOptions
from core.inference.segmenter import Segmenter
from tests.support.checkpoints import make_checkpoint
from tests.support.paths import ROOT

SIZES = [(90, 120), (64, 64), (120, 90), (90, 120), (1, 1), (7, 300)]
ARCHITECTURES = ("unet", "r2unet", "ddunet")


def random_image(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), np.uint8) for size in SIZES]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_call_composes_preprocess_forward_and_postprocess(tmp_path: Path, images: list[np.ndarray], architecture: str) -> None:
    segmenter = Segmenter(make_checkpoint(tmp_path / "c.safetensors", architecture))
    rgb = images[0]
    logits = segmenter.forward(segmenter.preprocess_image(rgb)[None])[0]
    assert np.array_equal(segmenter(rgb).labels, segmenter.postprocess(logits, rgb.shape[:2]))


def test_label_maps_have_sizes_of_images(checkpoint: Path, images: list[np.ndarray]) -> None:
    label_maps = Segmenter(checkpoint).predict_batch(images)
    assert [labels.shape for labels in label_maps] == SIZES
    assert all(labels.dtype == np.uint8 and labels.max() < 19 for labels in label_maps)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logits_are_bitwise_equal_in_any_batch(tmp_path: Path, images: list[np.ndarray], architecture: str) -> None:
    segmenter = Segmenter(make_checkpoint(tmp_path / "c.safetensors", architecture))
    inputs = [segmenter.preprocess_image(rgb) for rgb in images]
    for x, logits in zip(inputs, segmenter.forward_batch(inputs), strict=True):
        assert np.array_equal(logits, segmenter.forward_batch([x])[0])


def test_logits_do_not_depend_on_omp_num_threads(checkpoint: Path) -> None:
    program = (
        "import hashlib, numpy as np; from core.inference.segmenter import Segmenter;"
        " rgb = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8);"
        f" s = Segmenter({str(checkpoint)!r});"
        " print(hashlib.sha256(s.forward(s.preprocess_image(rgb)[None])[0].tobytes()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", program], env={"OMP_NUM_THREADS": n, "PATH": ""}, cwd=ROOT, capture_output=True, check=True
        ).stdout
        for n in ("1", "2", "3")
    }
    assert len(digests) == 1


def test_tiled_image_of_one_tile_equals_plain_inference(checkpoint: Path) -> None:
    segmenter, rgb = Segmenter(checkpoint), random_image(64, 48)
    logits = segmenter.forward(rgb[None])[0]
    labels = segmenter.predict_batch([rgb], options=InferenceOptions(tiled=True))[0]
    assert np.array_equal(labels, segmenter.postprocess(logits, (64, 48)))


def test_tiled_label_map_has_size_of_image(checkpoint: Path) -> None:
    options = InferenceOptions(tiled=True, hflip_tta=True)
    labels = Segmenter(checkpoint).predict_batch([random_image(130, 201)], options=options)[0]
    assert labels.shape == (130, 201) and labels.max() < 19


def test_tiled_inference_rejects_other_label_size(checkpoint: Path) -> None:
    with pytest.raises(InputError, match="must have the size of its image"):
        Segmenter(checkpoint).predict_batch([random_image(64, 64)], [(32, 32)], options=InferenceOptions(tiled=True))


@pytest.mark.parametrize("tiled", [False, True], ids=["resized", "tiled"])
def test_hflip_tta_of_flipped_image_is_flipped_label_map(checkpoint: Path, tiled: bool) -> None:
    segmenter, rgb = Segmenter(checkpoint), random_image(64, 64)
    options = InferenceOptions(tiled, hflip_tta=True)
    flipped = segmenter.predict_batch([np.ascontiguousarray(rgb[:, ::-1])], options=options)[0]
    assert np.mean(flipped[:, ::-1] == segmenter.predict_batch([rgb], options=options)[0]) > 0.999


def test_hflip_tta_averages_logits(checkpoint: Path) -> None:
    segmenter, rgb = Segmenter(checkpoint), random_image(64, 64)
    x = segmenter.preprocess_image(rgb)
    logits, flipped_logits = segmenter.forward_batch([x, x[:, ::-1]])
    averaged = segmenter.forward_hflip([x], segmenter.forward_batch)[0]
    assert np.allclose(averaged, (logits + flipped_logits[..., ::-1]) / 2)


def test_missing_checkpoint_is_rejected() -> None:
    with pytest.raises(CheckpointError, match="nowhere: no such checkpoint"):
        Segmenter("nowhere")


@pytest.mark.parametrize("hflip", [False, True])
def test_tiled_confidence_of_one_tile_equals_plain_confidence(checkpoint: Path, hflip: bool) -> None:
    segmenter = Segmenter(checkpoint)
    image = load_image(random_image(*segmenter.preprocess.size))
    (tiled,) = segmenter.segment_batch([image], InferenceOptions(tiled=True, hflip_tta=hflip), confidence=True)
    (plain,) = segmenter.segment_batch([image], InferenceOptions(hflip_tta=hflip), confidence=True)
    assert np.allclose(tiled.confidence, plain.confidence, atol=1e-5)
