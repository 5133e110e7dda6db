"""Preprocess and resizing, against torch's and OpenCV's own interpolation."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from core.images.resize import Preprocess, resize_label, resize_photo


def test_stretch_has_the_size_whatever_the_aspect() -> None:
    assert Preprocess(mode="stretch", size=(32, 48))(np.zeros((10, 99, 3), np.uint8)).shape == (3, 32, 48)


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(1024, 2048, (176, 368)), (360, 480, (224, 288)), (480, 360, (288, 224)), (256, 256, (256, 256))],
)
def test_fit_keeps_aspect_and_area(height: int, width: int, expected: tuple[int, int]) -> None:
    assert Preprocess(mode="fit", size=(256, 256), stride=16).shape(height, width) == expected


@pytest.mark.parametrize("size", [(1, 1), (1, 16000), (16000, 1), (3, 5000)])
def test_fit_of_an_extreme_aspect_costs_no_more_than_a_photograph(size: tuple[int, int]) -> None:
    height, width = Preprocess(mode="fit", size=(256, 256), stride=16).shape(*size)
    assert height % 16 == width % 16 == 0
    assert height * width <= 256 * 256


def test_normalised_values_are_the_published_formula(photo: np.ndarray) -> None:
    preprocess = Preprocess(mode="stretch", size=photo.shape[:2])
    expected = (photo / 255 - preprocess.mean) / preprocess.std
    assert np.allclose(preprocess(photo), expected.transpose(2, 0, 1), atol=1e-5)


@pytest.mark.parametrize("cut", [np.s_[:1, :1], np.s_[3:20, 5:40], np.s_[:, ::-1], np.s_[::2, ::3]])
def test_normalise_takes_parts_and_mirror_images_of_a_picture(photo: np.ndarray, cut: tuple[slice, slice]) -> None:
    preprocess, part = Preprocess(), photo[cut]
    scale, shift = preprocess.factors
    assert np.array_equal(preprocess.normalise(part), (part * scale - shift).transpose(2, 0, 1))


def test_restore_is_the_inverse_of_normalise(photo: np.ndarray) -> None:
    preprocess = Preprocess()
    assert np.array_equal(preprocess.restore(preprocess.normalise(photo)), photo)


@pytest.mark.parametrize("size", [(30, 40), (45, 60), (180, 240), (90, 120)])
def test_photographs_shrink_by_area_and_grow_linearly(photo: np.ndarray, size: tuple[int, int]) -> None:
    x = torch.from_numpy(photo).permute(2, 0, 1)[None].float()
    grows = size[0] > photo.shape[0]
    oracle = F.interpolate(x, size, mode="bilinear", align_corners=False) if grows else F.interpolate(x, size, mode="area")
    assert np.abs(resize_photo(photo, size) - oracle[0].permute(1, 2, 0).numpy()).max() <= 1


def test_each_axis_goes_by_its_own_rule(photo: np.ndarray) -> None:
    shrunk = cv2.resize(photo, (60, 90), interpolation=cv2.INTER_AREA)
    expected = cv2.resize(shrunk, (60, 200), interpolation=cv2.INTER_LINEAR)
    assert np.array_equal(resize_photo(photo, (200, 60)), expected)


@pytest.mark.parametrize("size", [(8, 8), (13, 29), (61, 67), (100, 6)])
def test_labels_are_resized_at_half_pixel_centres(size: tuple[int, int]) -> None:
    labels = np.random.default_rng(0).integers(0, 19, (61, 67)).astype(np.uint8)  # odd sides: no pixel lies on a tie
    oracle = F.interpolate(torch.from_numpy(labels)[None, None], size, mode="nearest-exact")[0, 0].numpy()
    assert np.array_equal(resize_label(labels, size), oracle)
