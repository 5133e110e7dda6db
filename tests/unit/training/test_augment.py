"""Paired augmentation: one marked pixel goes where it must, in photograph and label alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as F

from core.data.labels import VOID
from core.images.resize import Preprocess
from training.data.augment import AugmentOptions, Classic, Street, flip, rotate

MARK = (3, 5)  # row, column


def marked(height: int = 8, width: int = 8) -> tuple[np.ndarray, np.ndarray]:
    rgb, labels = np.zeros((height, width, 3), np.uint8), np.zeros((height, width), np.uint8)
    rgb[MARK], labels[MARK] = (10, 200, 30), 7
    return rgb, labels


def place_of_mark(sample: tuple[np.ndarray, np.ndarray]) -> tuple[int, int]:
    rgb, labels = sample
    (in_photo,), (in_label,) = np.argwhere(rgb[..., 1] == 200), np.argwhere(labels == 7)
    assert in_photo.tolist() == in_label.tolist()
    assert rgb[tuple(in_photo)].tolist() == [10, 200, 30]
    return int(in_photo[0]), int(in_photo[1])


def test_flip_mirrors_the_columns() -> None:
    assert place_of_mark(flip(marked())) == (3, 7 - 5)


@pytest.mark.parametrize(("steps", "expected"), [(0, (3, 5)), (1, (7 - 5, 3)), (2, (7 - 3, 7 - 5)), (3, (5, 7 - 3))])
def test_quarter_turns_are_counter_clockwise(steps: int, expected: tuple[int, int]) -> None:
    assert place_of_mark(rotate(marked(), steps)) == expected


def test_a_quarter_turn_of_an_oblong_swaps_its_sides() -> None:
    rgb, labels = rotate(marked(6, 9), 1)
    assert rgb.shape == (9, 6, 3) and labels.shape == (9, 6)
    assert place_of_mark((rgb, labels)) == (8 - 5, 3)


def test_classic_reaches_all_eight_positions_of_a_square() -> None:
    augment = Classic(Preprocess(mode="stretch", size=(8, 8)))
    seen = {place_of_mark(augment(marked(), np.random.default_rng(n))) for n in range(100)}
    assert seen == {(r, c) for a, b in (MARK, MARK[::-1]) for r in (a, 7 - a) for c in (b, 7 - b)}


def test_classic_keeps_the_size_of_an_oblong() -> None:
    augment = Classic(Preprocess(mode="stretch", size=(8, 16)))
    seen = {place_of_mark(augment(marked(8, 16), np.random.default_rng(n))) for n in range(50)}
    assert seen == {(r, c) for r in (3, 4) for c in (5, 10)}


def test_classic_changes_no_value() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    turned, _ = Classic(Preprocess(mode="stretch", size=(8, 8)))((rgb, rgb[..., 0]), np.random.default_rng(3))
    assert sorted(turned.reshape(-1, 3).tolist()) == sorted(rgb.reshape(-1, 3).tolist())


def street(size: tuple[int, int], seed: int, photo: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    labels = (photo[..., 0] // 64).astype(np.uint8)
    return Street(Preprocess(mode="fit", size=size))((photo, labels), np.random.default_rng(seed))


@pytest.mark.parametrize("seed", range(20))
def test_street_gives_the_network_s_size_and_no_new_label(photo: np.ndarray, seed: int) -> None:
    rgb, labels = street((48, 64), seed, photo)
    assert rgb.shape == (48, 64, 3) and labels.shape == (48, 64)
    assert set(np.unique(labels)) <= {0, 1, 2, 3, VOID}


def test_street_pads_with_void_and_zooms_in(photo: np.ndarray) -> None:
    shares = [float((street((48, 64), seed, photo)[1] == VOID).mean()) for seed in range(60)]
    assert max(shares) > 0.6  # half the size leaves three quarters empty
    assert sum(share == 0 for share in shares) > 15


def test_street_keeps_photograph_and_label_aligned() -> None:
    """Halves of black and white keep their border in one place, to a pixel of interpolation."""
    photo = np.zeros((96, 128, 3), np.uint8)
    photo[:, 64:] = 255
    for seed in range(20):
        rgb, labels = Street(Preprocess(mode="fit", size=(48, 64)))(
            (photo, (photo[..., 0] // 255)), np.random.default_rng(seed)
        )
        inside = labels != VOID
        wrong = ((rgb[..., 0] > 120) != (labels == 1)) & inside
        assert wrong.sum(1).max(initial=0) <= 1


def test_the_same_generator_gives_the_same_sample(photo: np.ndarray) -> None:
    first, second, other = street((48, 64), 5, photo), street((48, 64), 5, photo), street((48, 64), 6, photo)
    assert np.array_equal(first[0], second[0]) and np.array_equal(first[1], second[1])
    assert not np.array_equal(first[0], other[0])


def test_street_changes_colours(photo: np.ndarray) -> None:
    grey = np.full_like(photo, 100)
    means = [float(street((48, 64), seed, grey)[0].mean()) for seed in range(20)]
    assert min(means) < 90 and max(means) > 110


def test_without_jitter_colours_stay(photo: np.ndarray) -> None:
    still = Street(Preprocess(mode="fit", size=(48, 64)), AugmentOptions(jitter=0))
    assert np.array_equal(still.colours(photo, np.random.default_rng(0)), photo)


@pytest.mark.parametrize(("seed", "jitter"), [(0, 0.3), (1, 0.3), (2, 0.3), (3, 0.6), (4, 0.6)])
def test_colours_change_as_torchvision_changes_them(photo: np.ndarray, seed: int, jitter: float) -> None:
    brightness, contrast, saturation = np.random.default_rng(seed).uniform(1 - jitter, 1 + jitter, 3)
    expected = torch.from_numpy(photo).permute(2, 0, 1)
    for adjust, factor in (
        (F.adjust_brightness, brightness),
        (F.adjust_contrast, contrast),
        (F.adjust_saturation, saturation),
    ):
        expected = adjust(expected, float(factor))
    ours = Street(Preprocess(), AugmentOptions(jitter=jitter)).colours(photo, np.random.default_rng(seed))
    assert np.abs(ours.astype(int) - expected.permute(1, 2, 0).numpy()).max() <= 2  # torchvision truncates, OpenCV rounds


@pytest.mark.parametrize("original", [(375, 1242), (1464, 1936), (1024, 2048), (360, 480), (200, 300), (64, 128)])
@pytest.mark.parametrize("stride", [8, 16])
def test_the_network_s_size_is_that_of_the_photograph_and_not_of_what_is_kept_of_it(
    original: tuple[int, int], stride: int
) -> None:
    preprocess = Preprocess(size=(256, 256), stride=stride)
    for keep in (Street(preprocess, AugmentOptions(scale)).keep for scale in ((0.5, 2.0), (0.5, 1.0), (0.7, 1.3))):
        assert keep.fitted(*keep.size(*original)) == preprocess.shape(*original)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_aspect_changes_the_ratio_of_the_sides_and_not_the_area(factor: float) -> None:
    options = AugmentOptions(scale=(0.5, 0.5), aspect=(factor, factor), jitter=0)
    labels = np.zeros((64, 64), np.uint8)
    rgb = np.zeros((64, 64, 3), np.uint8)
    augment = Street(Preprocess(mode="stretch", size=(64, 64)), options)
    valid = augment((rgb, labels), np.random.default_rng(0))[1] != VOID
    height, width = valid.any(1).sum(), valid.any(0).sum()
    assert (height, width) == (round(32 / factor**0.5), round(32 * factor**0.5))


def test_stretched_street_fills_the_window_at_scale_one_whatever_the_image_s_shape() -> None:
    rgb, labels = np.zeros((30, 90, 3), np.uint8), np.zeros((30, 90), np.uint8)
    augment = Street(Preprocess(mode="stretch", size=(48, 64)), AugmentOptions(scale=(1, 1)))
    assert (augment(augment.keep((rgb, labels)), np.random.default_rng(0))[1] == 0).all()
