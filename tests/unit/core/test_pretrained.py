"""Tests of core/pretrained: the bundled checkpoints are small, documented and segment a real street image."""

from __future__ import annotations

import numpy as np
import pytest

from core.checkpoints.checkpoint import PRETRAINED, bundled_checkpoints, read_checkpoint
from core.checkpoints.exported import read_exported_model
from core.data.labels import CITYSCAPES
from core.inference.segmenter import Segmenter
from tests.support.paths import ROOT

STREET_IMAGE = ROOT / "docs" / "street.jpg"
NAMES = ("ddunet-cityscapes", "ddunet", "r2unet", "unet-cityscapes", "unet")
# Regions (rows, columns) of the street image that show one class each.
REGIONS = {
    "road": (slice(270, 350), slice(230, 360)),
    "sky": (slice(10, 80), slice(230, 290)),
    "car": (slice(215, 280), slice(385, 455)),
    "building": (slice(60, 180), slice(15, 50)),
    "vegetation": (slice(30, 120), slice(350, 440)),
}


def test_all_architectures_are_bundled() -> None:
    assert tuple(bundled_checkpoints()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_file_is_small_with_fp16_weights_and_fp32_statistics(name: str) -> None:
    assert (PRETRAINED / f"{name}.safetensors").stat().st_size <= 8e6
    for key, array in read_checkpoint(PRETRAINED / f"{name}.safetensors").tensors.items():
        if array.dtype.kind == "f":
            assert array.dtype == (np.float16 if array.ndim > 1 else np.float32), key


@pytest.mark.parametrize("name", NAMES)
def test_metadata_documents_training_data_and_license(name: str) -> None:
    metadata = read_checkpoint(PRETRAINED / f"{name}.safetensors").metadata
    architecture, _, dataset = name.partition("-")
    assert metadata.architecture.name == architecture and metadata.labels == CITYSCAPES
    assert metadata.stages and all(stage.hours and stage.command for stage in metadata.stages)
    assert "CamVid" in (metadata.license or "") and "never" in (metadata.limitations or "")
    if dataset == "cityscapes":
        assert metadata.scored_on == "cityscapes val, 500 images" and (metadata.scores["miou"] or 0) > 0.35
        assert metadata.preprocess.mode == "stretch" and metadata.calibration is not None
    else:
        assert metadata.scored_on == "camvid val, 101 images" and (metadata.scores["miou_present"] or 0) > 0.5
        assert metadata.preprocess.mode == "fit" and all(stage.data == "camvid" for stage in metadata.stages)


@pytest.mark.parametrize("name", NAMES)
def test_int8_model_keeps_scores_and_masks(name: str) -> None:
    checkpoint = read_checkpoint(PRETRAINED / f"{name}.safetensors")
    manifest = read_exported_model(PRETRAINED / f"{name}.int8", checkpoint.digest).manifest
    assert manifest.scored_on == checkpoint.metadata.scored_on and manifest.pixel_agreement is not None
    before, after = (scores["miou_present"] or 0 for scores in (manifest.checkpoint_scores, manifest.scores))
    assert before == pytest.approx(checkpoint.metadata.scores["miou_present"], abs=1e-4)
    assert before - after <= 0.005 and manifest.pixel_agreement >= 0.985


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("region", REGIONS)
def test_street_image_is_segmented(name: str, region: str) -> None:
    labels = Segmenter(name)(STREET_IMAGE).labels
    assert (labels[REGIONS[region]] == CITYSCAPES.names.index(region)).mean() > 0.8
