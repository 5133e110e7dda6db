"""Enlarging logits, against torch's bilinear interpolation and argmax."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from core.inference import upsample
from core.inference.upsample import confidence, label_map


@pytest.mark.parametrize("size", [(64, 128), (97, 31), (16, 32), (5, 9), (1, 1)])
def test_label_map_is_the_argmax_of_enlarged_logits(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    logits = torch.randn(19, 16, 32)
    enlarged = F.interpolate(logits[None], size, mode="bilinear", align_corners=False)[0]
    best = enlarged.topk(2, dim=0).values
    clear = (best[0] - best[1] > 1e-5).numpy()
    assert clear.mean() > 0.99 or clear.size < 100
    assert np.array_equal(label_map(logits.numpy(), size)[clear], enlarged.argmax(0).numpy()[clear])


@pytest.fixture
def scene() -> torch.Tensor:
    """Logits (19, 24, 40) with large regions, as of a photograph: most cells have one class at all corners."""
    torch.manual_seed(0)
    return F.interpolate(torch.randn(1, 19, 5, 7), (24, 40), mode="bicubic")[0]


@pytest.mark.parametrize("size", [(96, 320), (96, 321), (50, 41), (25, 40), (24, 400), (24, 40), (1000, 40), (23, 400)])
def test_borders_worked_out_alone_give_the_argmax_of_enlarged_logits(scene: torch.Tensor, size: tuple[int, int]) -> None:
    enlarged = F.interpolate(scene[None].double(), size, mode="bilinear", align_corners=False)[0]
    best = enlarged.topk(2, dim=0).values
    clear = (best[0] - best[1] > 1e-5).numpy()
    assert clear.mean() > 0.999
    assert np.array_equal(label_map(scene.numpy(), size)[clear], enlarged.argmax(0).numpy()[clear])


def test_only_borders_are_worked_out(scene: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(upsample, "_label_all")
    assert label_map(scene.numpy(), (96, 320)).shape == (96, 320)


def test_a_class_that_wins_at_no_corner_can_win_between_them() -> None:
    logits = np.array([[[10, 0]], [[0, 10]], [[8, 8]]], np.float32)
    wide = np.pad(logits, ((0, 0), (0, 0), (5, 5)), "edge")  # the corners are eight pixels apart: 1/16, 3/16 ... of the way
    assert label_map(wide, (4, 12 * 8))[0, 40:56].tolist() == [0] * 6 + [2] * 4 + [1] * 6


def test_the_first_of_equal_logits_wins() -> None:
    assert not label_map(np.zeros((5, 4, 4), np.float32), (8, 8)).any()


@pytest.mark.parametrize("size", [(64, 128), (97, 31), (16, 32), (5, 9)])
def test_confidence_is_the_largest_softmax_of_enlarged_logits(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    logits = 5 * torch.randn(19, 16, 32)
    probabilities = F.interpolate(logits[None], size, mode="bilinear", align_corners=False)[0].softmax(0)
    assert np.allclose(confidence(logits.numpy(), size), probabilities.amax(0).numpy(), atol=1e-5)


def test_confidence_of_huge_logits_is_finite() -> None:
    logits = np.stack((np.full((2, 2), 1e30), np.full((2, 2), -1e30))).astype(np.float32)
    assert (confidence(logits, (3, 3)) == 1).all()
