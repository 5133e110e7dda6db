"""Tests of training.data.augment: image and label are transformed alike, and the sample depends on the generator only."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as F

from core.data.labels import IGNORE_INDEX
from core.images.resize import Preprocess
from training.data.augment import AugmentOptions, ClassicAugmentation, StreetAugmentation, hflip, rot90

MARK = (3, 5)  # row and column of the one marked pixel
Sample = tuple[np.ndarray, np.ndarray]


def marked_sample(height: int = 8, width: int = 8) -> Sample:
    rgb, labels = np.zeros((height, width, 3), np.uint8), np.zeros((height, width), np.uint8)
    rgb[MARK], labels[MARK] = (10, 200, 30), 7
    return rgb, labels


def mark_position(sample: Sample) -> tuple[int, int]:
    """Return row and column of the marked pixel, which must be the same in image and label."""
    rgb, labels = sample
    (in_image,), (in_label,) = np.argwhere(rgb[..., 1] == 200), np.argwhere(labels == 7)
    assert in_image.tolist() == in_label.tolist()
    assert rgb[tuple(in_image)].tolist() == [10, 200, 30]
    return int(in_image[0]), int(in_image[1])


def augment_street(size: tuple[int, int], seed: int, rgb: np.ndarray) -> Sample:
    """Augment an image whose labels are its red channel in four steps."""
    labels = (rgb[..., 0] // 64).astype(np.uint8)
    return StreetAugmentation(Preprocess(mode="fit", size=size))((rgb, labels), np.random.default_rng(seed))


def test_hflip_reverses_columns() -> None:
    assert mark_position(hflip(marked_sample())) == (3, 7 - 5)


@pytest.mark.parametrize(("turns", "expected"), [(0, (3, 5)), (1, (7 - 5, 3)), (2, (7 - 3, 7 - 5)), (3, (5, 7 - 3))])
def test_rot90_is_counterclockwise(turns: int, expected: tuple[int, int]) -> None:
    assert mark_position(rot90(marked_sample(), turns)) == expected


def test_rot90_swaps_height_and_width() -> None:
    rgb, labels = rot90(marked_sample(6, 9), 1)
    assert rgb.shape == (9, 6, 3) and labels.shape == (9, 6)
    assert mark_position((rgb, labels)) == (8 - 5, 3)


def test_classic_reaches_all_eight_orientations_of_a_square() -> None:
    augment = ClassicAugmentation(Preprocess(mode="stretch", size=(8, 8)))
    positions = {mark_position(augment(marked_sample(), np.random.default_rng(n))) for n in range(100)}
    assert positions == {(r, c) for a, b in (MARK, MARK[::-1]) for r in (a, 7 - a) for c in (b, 7 - b)}


def test_classic_keeps_size_of_a_rectangle() -> None:
    augment = ClassicAugmentation(Preprocess(mode="stretch", size=(8, 16)))
    positions = {mark_position(augment(marked_sample(8, 16), np.random.default_rng(n))) for n in range(50)}
    assert positions == {(r, c) for r in (3, 4) for c in (5, 10)}


def test_classic_keeps_pixel_values() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    augment = ClassicAugmentation(Preprocess(mode="stretch", size=(8, 8)))
    rotated, labels = augment((rgb, rgb[..., 0]), np.random.default_rng(3))
    assert sorted(rotated.reshape(-1, 3).tolist()) == sorted(rgb.reshape(-1, 3).tolist())
    assert np.array_equal(labels, rotated[..., 0])


@pytest.mark.parametrize("seed", range(20))
def test_street_has_network_size_and_no_new_labels(rgb_image: np.ndarray, seed: int) -> None:
    rgb, labels = augment_street((48, 64), seed, rgb_image)
    assert rgb.shape == (48, 64, 3) and labels.shape == (48, 64)
    assert set(np.unique(labels)) <= {0, 1, 2, 3, IGNORE_INDEX}


def test_street_downscales_with_void_padding_and_upscales(rgb_image: np.ndarray) -> None:
    void_fractions = [float((augment_street((48, 64), seed, rgb_image)[1] == IGNORE_INDEX).mean()) for seed in range(60)]
    assert max(void_fractions) > 0.6  # At half scale three quarters of the window are padding.
    assert sum(fraction == 0 for fraction in void_fractions) > 15


def test_street_keeps_image_and_label_aligned() -> None:
    """The edge between black and white stays at that of the labels, up to one interpolated pixel."""
    image = np.zeros((96, 128, 3), np.uint8)
    image[:, 64:] = 255
    augment = StreetAugmentation(Preprocess(mode="fit", size=(48, 64)))
    for seed in range(20):
        rgb, labels = augment((image, image[..., 0] // 255), np.random.default_rng(seed))
        wrong = ((rgb[..., 0] > 120) != (labels == 1)) & (labels != IGNORE_INDEX)
        assert wrong.sum(1).max(initial=0) <= 1


def test_sample_depends_on_generator_only(rgb_image: np.ndarray) -> None:
    first, second, other = (augment_street((48, 64), seed, rgb_image) for seed in (5, 5, 6))
    assert np.array_equal(first[0], second[0]) and np.array_equal(first[1], second[1])
    assert not np.array_equal(first[0], other[0])


def test_street_changes_brightness(rgb_image: np.ndarray) -> None:
    gray = np.full_like(rgb_image, 100)
    means = [float(augment_street((48, 64), seed, gray)[0].mean()) for seed in range(20)]
    assert min(means) < 90 and max(means) > 110


def test_zero_jitter_keeps_colors(rgb_image: np.ndarray) -> None:
    augment = StreetAugmentation(Preprocess(mode="fit", size=(48, 64)), AugmentOptions(jitter=0))
    assert np.array_equal(augment.color_jitter(rgb_image, np.random.default_rng(0)), rgb_image)


@pytest.mark.parametrize(("seed", "jitter"), [(0, 0.3), (1, 0.3), (2, 0.3), (3, 0.6), (4, 0.6)])
def test_color_jitter_matches_torchvision(rgb_image: np.ndarray, seed: int, jitter: float) -> None:
    brightness, contrast, saturation = np.random.default_rng(seed).uniform(1 - jitter, 1 + jitter, 3)
    expected = torch.from_numpy(rgb_image).permute(2, 0, 1)
    for adjust, factor in (
        (F.adjust_brightness, brightness),
        (F.adjust_contrast, contrast),
        (F.adjust_saturation, saturation),
    ):
        expected = adjust(expected, float(factor))
    augment = StreetAugmentation(Preprocess(), AugmentOptions(jitter=jitter))
    jittered = augment.color_jitter(rgb_image, np.random.default_rng(seed))
    # torchvision truncates after each step, OpenCV rounds.
    assert np.abs(jittered.astype(int) - expected.permute(1, 2, 0).numpy()).max() <= 2


@pytest.mark.parametrize("original", [(375, 1242), (1464, 1936), (1024, 2048), (360, 480), (200, 300), (64, 128)])
@pytest.mark.parametrize("scale", [(0.5, 2.0), (0.5, 1.0), (0.7, 1.3)])
@pytest.mark.parametrize("stride", [8, 16])
def test_network_size_of_stored_image_is_that_of_original(
    original: tuple[int, int], scale: tuple[float, float], stride: int
) -> None:
    preprocess = Preprocess(size=(256, 256), stride=stride)
    policy = StreetAugmentation(preprocess, AugmentOptions(scale)).storage_policy
    assert policy.network_size(*policy.stored_size(*original)) == preprocess.output_size(*original)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_aspect_changes_ratio_of_sides_and_keeps_area(factor: float) -> None:
    options = AugmentOptions(scale=(0.5, 0.5), aspect=(factor, factor), jitter=0)
    augment = StreetAugmentation(Preprocess(mode="stretch", size=(64, 64)), options)
    sample = np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64), np.uint8)
    valid = augment(sample, np.random.default_rng(0))[1] != IGNORE_INDEX
    height, width = valid.any(1).sum(), valid.any(0).sum()
    assert (height, width) == (round(32 / factor**0.5), round(32 * factor**0.5))


def test_stretched_street_fills_window_at_scale_one() -> None:
    sample = np.zeros((30, 90, 3), np.uint8), np.zeros((30, 90), np.uint8)
    augment = StreetAugmentation(Preprocess(mode="stretch", size=(48, 64)), AugmentOptions(scale=(1, 1)))
    assert (augment(augment.storage_policy(sample), np.random.default_rng(0))[1] == 0).all()


def test_crop_smaller_than_the_network_input_keeps_the_scale() -> None:
    labels = np.arange(64, dtype=np.uint8)[:, None].repeat(64, 1)
    image = labels[..., None].repeat(3, 2)
    options = AugmentOptions(scale=(1, 1), crop=(32, 48), jitter=0)
    augment = StreetAugmentation(Preprocess(mode="stretch", size=(64, 64)), options)
    cropped_image, cropped = augment((image, labels), np.random.default_rng(0))
    assert cropped.shape == (32, 48) and cropped_image.shape == (32, 48, 3)
    assert (np.diff(cropped[:, 0].astype(int)) == 1).all()
