"""Tests of core.inference.upsample against bilinear interpolation and argmax in PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from core.inference import upsample
from core.inference.upsample import upsample_argmax, upsample_confidence


def upsample_with_torch(logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return F.interpolate(logits[None], size, mode="bilinear", align_corners=False)[0]


def distinct_pixels(upsampled: torch.Tensor) -> np.ndarray:
    """Return a mask (H, W) of the pixels whose argmax does not depend on rounding."""
    largest = upsampled.topk(2, dim=0).values
    return (largest[0] - largest[1] > 1e-5).numpy()


@pytest.fixture
def smooth_logits() -> torch.Tensor:
    """Logits (19, 24, 40) with large regions, as those of a real image: most cells have one class at all corners."""
    torch.manual_seed(0)
    return F.interpolate(torch.randn(1, 19, 5, 7), (24, 40), mode="bicubic")[0]


@pytest.mark.parametrize("size", [(64, 128), (97, 31), (16, 32), (5, 9), (1, 1)])
def test_argmax_of_random_logits_matches_torch(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    logits = torch.randn(19, 16, 32)
    upsampled = upsample_with_torch(logits, size)
    distinct = distinct_pixels(upsampled)
    assert distinct.mean() > 0.99 or distinct.size < 100
    assert np.array_equal(upsample_argmax(logits.numpy(), size)[distinct], upsampled.argmax(0).numpy()[distinct])


@pytest.mark.parametrize("size", [(96, 320), (96, 321), (50, 41), (25, 40), (24, 400), (24, 40), (1000, 40), (23, 400)])
def test_argmax_of_smooth_logits_matches_torch(smooth_logits: torch.Tensor, size: tuple[int, int]) -> None:
    upsampled = upsample_with_torch(smooth_logits.double(), size)
    distinct = distinct_pixels(upsampled)
    assert distinct.mean() > 0.999
    assert np.array_equal(upsample_argmax(smooth_logits.numpy(), size)[distinct], upsampled.argmax(0).numpy()[distinct])


def test_smooth_logits_are_upsampled_only_at_boundaries(smooth_logits: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(upsample, "_argmax_dense")
    assert upsample_argmax(smooth_logits.numpy(), (96, 320)).shape == (96, 320)


def test_class_can_win_between_corners_without_winning_at_one() -> None:
    logits = np.array([[[10, 0]], [[0, 10]], [[8, 8]]], np.float32)
    # The corners are eight pixels apart, so the pixel centers are at 1/16, 3/16 ... of the distance.
    wide = np.pad(logits, ((0, 0), (0, 0), (5, 5)), "edge")
    assert upsample_argmax(wide, (4, 12 * 8))[0, 40:56].tolist() == [0] * 6 + [2] * 4 + [1] * 6


def test_first_of_equal_logits_wins() -> None:
    assert not upsample_argmax(np.zeros((5, 4, 4), np.float32), (8, 8)).any()


@pytest.mark.parametrize("size", [(64, 128), (97, 31), (16, 32), (5, 9)])
def test_confidence_is_largest_softmax_of_upsampled_logits(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    logits = 5 * torch.randn(19, 16, 32)
    probabilities = upsample_with_torch(logits, size).softmax(0)
    assert np.allclose(upsample_confidence(logits.numpy(), size), probabilities.amax(0).numpy(), atol=1e-5)


def test_confidence_of_huge_logits_is_finite() -> None:
    logits = np.stack((np.full((2, 2), 1e30), np.full((2, 2), -1e30))).astype(np.float32)
    assert (upsample_confidence(logits, (3, 3)) == 1).all()
