"""The checkpoints that ship: small, described, and of use on a photograph of a street."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from core.checkpoints.checkpoint import PRETRAINED, read_checkpoint, shipped
from core.checkpoints.exported import read_artefact
from core.data.labels import CITYSCAPES
from core.inference.segmenter import Segmenter

STREET = Path(__file__).parents[3] / "docs" / "street.jpg"
NAMES = ("ddunet", "r2unet", "unet")
# what stands where in that photograph: rows and columns
PLACES = {
    "road": (slice(270, 350), slice(230, 360)),
    "sky": (slice(10, 80), slice(230, 290)),
    "car": (slice(215, 280), slice(385, 455)),
    "building": (slice(60, 180), slice(15, 50)),
    "vegetation": (slice(30, 120), slice(350, 440)),
}


def test_they_are_there() -> None:
    assert tuple(shipped()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_file_has_at_most_8_mb_half_precision_and_whole_statistics(name: str) -> None:
    assert (PRETRAINED / f"{name}.safetensors").stat().st_size <= 8e6
    for key, array in read_checkpoint(PRETRAINED / f"{name}.safetensors").tensors.items():
        if array.dtype.kind == "f":
            assert array.dtype == (np.float16 if array.ndim > 1 else np.float32), key


@pytest.mark.parametrize("name", NAMES)
def test_its_card_tells_where_it_comes_from(name: str) -> None:
    card = read_checkpoint(PRETRAINED / f"{name}.safetensors").card
    assert card.architecture.name == name and card.labels == CITYSCAPES and card.preprocess.mode == "fit"
    assert card.legs and all(leg.hours and leg.command and leg.data == "camvid" for leg in card.legs)
    assert "CamVid" in (card.licence or "") and "never" in (card.limits or "")
    assert card.scored_on == "camvid val, 101 images" and (card.scores["macro_iou_labelled"] or 0) > 0.5


@pytest.mark.parametrize("name", NAMES)
def test_its_int8_artefact_loses_next_to_nothing(name: str) -> None:
    checkpoint = read_checkpoint(PRETRAINED / f"{name}.safetensors")
    card = read_artefact(PRETRAINED / f"{name}.int8", checkpoint.digest).card
    assert card.scored_on == checkpoint.card.scored_on and card.same_pixels is not None
    before, after = (scores["macro_iou_labelled"] or 0 for scores in (card.source_scores, card.scores))
    assert before == pytest.approx(checkpoint.card.scores["macro_iou_labelled"], abs=1e-4)
    assert before - after <= 0.005 and card.same_pixels >= 0.985


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", NAMES)
def test_it_finds_what_stands_in_a_photograph(name: str, place: str) -> None:
    labels = Segmenter(name)(STREET).labels
    assert (labels[PLACES[place]] == CITYSCAPES.names.index(place)).mean() > 0.8
