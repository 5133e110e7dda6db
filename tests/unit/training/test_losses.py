"""Tests of training.engine.losses against PyTorch and torchmetrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.segmentation import dice_score

from core.data.labels import IGNORE_INDEX
from training.engine.losses import DICE_SMOOTHING, SegmentationLoss, class_weights

Batch = tuple[Tensor, Tensor]


@pytest.fixture
def batch() -> Batch:
    """Logits (3, 5, 8, 9) and labels (3, 8, 9) with void pixels."""
    torch.manual_seed(0)
    labels = torch.randint(0, 5, (3, 8, 9), dtype=torch.uint8)
    labels[1, :4] = IGNORE_INDEX
    return torch.randn(3, 5, 8, 9), labels


def compute_loss(kind: str, weights: Tensor | None, logits: Tensor, labels: Tensor) -> float:
    """Return the loss of a batch in one part."""
    loss = SegmentationLoss(kind, weights, world_size=1)
    return float(loss(logits, labels, loss.normalizer(labels)))


@pytest.mark.parametrize("weights", [None, torch.tensor([1.0, 2.0, 0.5, 4.0, 1.5])], ids=["unweighted", "weighted"])
def test_cross_entropy_matches_torch(batch: Batch, weights: Tensor | None) -> None:
    logits, labels = batch
    expected = F.cross_entropy(logits, labels.long(), weights, ignore_index=IGNORE_INDEX)
    assert compute_loss("ce", weights, logits, labels) == pytest.approx(float(expected), rel=1e-6)


def test_dice_of_certain_predictions_matches_torchmetrics(batch: Batch) -> None:
    labels = batch[1].clamp(max=4).long()
    predictions = torch.randint(0, 5, labels.shape)
    logits = F.one_hot(predictions, 5).permute(0, 3, 1, 2).float() * 200
    # torchmetrics averages over images, so the whole batch is passed as one image.
    flat = [x.reshape(1, -1, 1) for x in (predictions, labels)]
    expected = 1 - float(dice_score(*flat, num_classes=5, average="macro", input_format="index"))
    actual = compute_loss("dice", None, logits, labels.to(torch.uint8))
    assert actual == pytest.approx(expected, abs=DICE_SMOOTHING / 40)


def test_dice_ignores_void_and_absent_classes() -> None:
    labels = torch.tensor([[[0, 0, IGNORE_INDEX, IGNORE_INDEX]]], dtype=torch.uint8)
    logits = torch.zeros(1, 3, 1, 4)
    logits[:, 0] = 100
    expected = compute_loss("dice", None, logits, labels)
    logits[:, :, :, 2:] = torch.tensor([0.0, 100.0, 0.0]).view(1, 3, 1, 1)  # another prediction for the void pixels
    assert expected == compute_loss("dice", None, logits, labels) == pytest.approx(0, abs=1e-6)


def test_combined_loss_is_sum(batch: Batch) -> None:
    expected = compute_loss("ce", None, *batch) + compute_loss("dice", None, *batch)
    assert compute_loss("ce+dice", None, *batch) == pytest.approx(expected, rel=1e-6)


def test_void_batch_has_zero_gradient(batch: Batch) -> None:
    logits = batch[0].requires_grad_()
    labels = torch.full_like(batch[1], IGNORE_INDEX)
    loss = SegmentationLoss("ce+dice", None, 1)
    loss(logits, labels, loss.normalizer(labels)).backward()
    assert logits.grad is not None and not logits.grad.any()


def test_void_micro_batch_has_no_weight_in_dice() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(4, 5, 4, 4), torch.randint(0, 5, (4, 4, 4), dtype=torch.uint8)
    loss, first_half = SegmentationLoss("dice", None, 1), (logits[:2], labels[:2])
    expected = loss(*first_half, loss.normalizer(first_half[1]))
    labels[2:] = IGNORE_INDEX
    normalizer = loss.normalizer(labels)
    assert loss(*first_half, normalizer) == pytest.approx(float(expected))
    assert float(loss(logits[2:], labels[2:], normalizer)) == 0


def test_gradients_of_micro_batches_add_up() -> None:
    """Micro-batches with different numbers of valid pixels; for ranks see e2e/processes/test_distributed.py."""
    torch.manual_seed(0)
    logits = torch.randn(6, 5, 4, 4, requires_grad=True)
    labels = torch.randint(0, 5, (6, 4, 4), dtype=torch.uint8)
    labels[0] = IGNORE_INDEX
    loss = SegmentationLoss("ce", None, 1)
    loss(logits, labels, loss.normalizer(labels)).backward()
    expected = logits.grad
    logits.grad = None
    for x, y in zip(logits.tensor_split(3), labels.tensor_split(3), strict=True):
        loss(x, y, loss.normalizer(labels)).backward()
    assert expected is not None and logits.grad is not None and torch.allclose(expected, logits.grad)


def test_class_weights_match_enet_formula() -> None:
    """Source: Paszke et al. 2016, section 5.2."""
    weights = class_weights("data", [75, 25, 0], torch.device("cpu"))
    assert weights is not None
    assert weights.tolist() == pytest.approx([1 / np.log(1.77), 1 / np.log(1.27), 1 / np.log(1.02)])


def test_sqrt_class_weights_are_square_roots_of_the_enet_weights() -> None:
    pixels, device = [75, 25, 0], torch.device("cpu")
    data, sqrt = class_weights("data", pixels, device), class_weights("sqrt", pixels, device)
    assert data is not None and sqrt is not None and torch.allclose(sqrt.square(), data)
