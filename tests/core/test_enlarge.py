"""Enlarging logits, against torch's bilinear interpolation and argmax."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from core.enlarge import confidence, label_map


@pytest.mark.parametrize("size", [(64, 128), (97, 31), (16, 32), (5, 9), (1, 1)])
def test_label_map_is_the_argmax_of_enlarged_logits(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    logits = torch.randn(19, 16, 32)
    enlarged = F.interpolate(logits[None], size, mode="bilinear", align_corners=False)[0]
    best = enlarged.topk(2, dim=0).values
    clear = (best[0] - best[1] > 1e-5).numpy()
    assert clear.mean() > 0.99 or clear.size < 100
    assert np.array_equal(label_map(logits.numpy(), size)[clear], enlarged.argmax(0).numpy()[clear])


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
