"""Tests of core.images.resize against the interpolation of PyTorch and OpenCV."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from core.images.resize import Preprocess, resize_image, resize_label


def test_stretch_ignores_aspect_ratio() -> None:
    assert Preprocess(mode="stretch", size=(32, 48))(np.zeros((10, 99, 3), np.uint8)).shape == (3, 32, 48)


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(1024, 2048, (176, 368)), (360, 480, (224, 288)), (480, 360, (288, 224)), (256, 256, (256, 256))],
)
def test_fit_keeps_aspect_ratio_and_area(height: int, width: int, expected: tuple[int, int]) -> None:
    assert Preprocess(mode="fit", size=(256, 256), stride=16).output_size(height, width) == expected


@pytest.mark.parametrize("size", [(1, 1), (1, 16000), (16000, 1), (3, 5000)])
def test_fit_limits_area_of_extreme_aspect_ratios(size: tuple[int, int]) -> None:
    height, width = Preprocess(mode="fit", size=(256, 256), stride=16).output_size(*size)
    assert height % 16 == width % 16 == 0
    assert height * width <= 256 * 256


def test_preprocess_subtracts_mean_and_divides_by_std(rgb_image: np.ndarray) -> None:
    preprocess = Preprocess(mode="stretch", size=rgb_image.shape[:2])
    expected = (rgb_image / 255 - preprocess.mean) / preprocess.std
    assert np.allclose(preprocess(rgb_image), expected.transpose(2, 0, 1), atol=1e-5)


@pytest.mark.parametrize(
    "index",
    [np.s_[:1, :1], np.s_[3:20, 5:40], np.s_[:, ::-1], np.s_[::2, ::3]],
    ids=["pixel", "crop", "flipped", "strided"],
)
def test_normalize_accepts_views(rgb_image: np.ndarray, index: tuple[slice, slice]) -> None:
    preprocess, view = Preprocess(), rgb_image[index]
    scale, shift = preprocess.scale_and_shift
    assert np.array_equal(preprocess.normalize(view), (view * scale - shift).transpose(2, 0, 1))


def test_denormalize_inverts_normalize(rgb_image: np.ndarray) -> None:
    preprocess = Preprocess()
    assert np.array_equal(preprocess.denormalize(preprocess.normalize(rgb_image)), rgb_image)


@pytest.mark.parametrize("size", [(30, 40), (45, 60), (180, 240), (90, 120)])
def test_images_are_downsampled_by_area_and_upsampled_bilinearly(rgb_image: np.ndarray, size: tuple[int, int]) -> None:
    x = torch.from_numpy(rgb_image).permute(2, 0, 1)[None].float()
    if size[0] > rgb_image.shape[0]:
        expected = F.interpolate(x, size, mode="bilinear", align_corners=False)
    else:
        expected = F.interpolate(x, size, mode="area")
    assert np.abs(resize_image(rgb_image, size) - expected[0].permute(1, 2, 0).numpy()).max() <= 1


def test_each_axis_is_resized_by_its_own_method(rgb_image: np.ndarray) -> None:
    narrow = cv2.resize(rgb_image, (60, 90), interpolation=cv2.INTER_AREA)
    expected = cv2.resize(narrow, (60, 200), interpolation=cv2.INTER_LINEAR)
    assert np.array_equal(resize_image(rgb_image, (200, 60)), expected)


@pytest.mark.parametrize("size", [(8, 8), (13, 29), (61, 67), (100, 6)])
def test_labels_are_resized_by_nearest_neighbor_at_half_pixel_centers(size: tuple[int, int]) -> None:
    # The sides are odd, so that no pixel center is exactly between two.
    labels = np.random.default_rng(0).integers(0, 19, (61, 67)).astype(np.uint8)
    expected = F.interpolate(torch.from_numpy(labels)[None, None], size, mode="nearest-exact")[0, 0].numpy()
    assert np.array_equal(resize_label(labels, size), expected)
