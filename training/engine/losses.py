"""Training losses: cross-entropy, soft Dice or their sum, over the global batch of all ranks and micro-batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from core.data.labels import IGNORE_INDEX

DICE_SMOOTHING = 1.0  # pixels added to numerator and denominator: a class that is absent and not predicted has Dice 1


class SegmentationLoss:
    """A mean over the valid (not void) pixels of a global batch, computed in parts that add up to it.

    A global batch is distributed over ranks, and each rank splits its shard into micro-batches. The cross-entropy of a
    micro-batch is divided by `normalizer`, summed over all ranks and micro-batches, so the sum of the parts is the mean
    that one process would compute on the whole batch. Soft Dice is a quotient of sums: it is computed for each micro-batch
    over all ranks, and averaged over the micro-batches by their numbers of valid pixels.

    Args:
        kind: `ce`, `dice` or `ce+dice`.
        weights: (K,) float32, weight of each class in the cross-entropy; None for equal weights.
        world_size: Number of ranks.
    """

    def __init__(self, kind: str, weights: Tensor | None, world_size: int) -> None:
        self.cross_entropy, self.dice = (name in kind.split("+") for name in ("ce", "dice"))
        self.weights, self.world_size = weights, world_size

    def normalizer(self, labels: Tensor) -> Tensor:
        """Count the valid pixels of labels (N, H, W) uint8: (2,) float64, weighted by class and unweighted."""
        valid = labels != IGNORE_INDEX
        pixels = valid.sum(dtype=torch.float64)
        if self.weights is None:
            return torch.stack((pixels, pixels))
        weighted = (self.weights[torch.where(valid, labels, 0).long()] * valid).sum(dtype=torch.float64)
        return torch.stack((weighted, pixels))

    def __call__(self, logits: Tensor, labels: Tensor, normalizer: Tensor) -> Tensor:
        """Return the contribution of one micro-batch of this rank to the loss of the global batch.

        Args:
            logits: (N, K, H, W) float32.
            labels: (N, H, W) uint8 train ids, 255 void.
            normalizer: (2,) float64, the sum of `normalizer(labels)` over all ranks and micro-batches.
        """
        # One row per pixel: reductions over contiguous classes are three times as fast as over dim 1 of channels-last logits.
        log_probabilities = logits.permute(0, 2, 3, 1).reshape(-1, logits.shape[1]).log_softmax(1)
        targets = labels.reshape(-1).long()
        loss = logits.new_zeros(())
        if self.cross_entropy:
            summed = F.nll_loss(log_probabilities, targets, self.weights, ignore_index=IGNORE_INDEX, reduction="sum")
            loss = loss + summed / normalizer[0].clamp(min=1e-6).float()
        if self.dice:
            dice, pixels = self._dice(log_probabilities.exp(), targets)
            loss = loss + dice * (pixels / normalizer[1].clamp(min=1)).float() / self.world_size
        return loss

    def _dice(self, probabilities: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return one minus the mean soft Dice of the labeled classes, and the number of valid pixels, over all ranks.

        Args:
            probabilities: (P, K) float32, one row per pixel.
            targets: (P,) int64 train ids, 255 void.

        Source: Milletari et al. 2016, section 3, without the squares in the denominator.
        """
        classes = probabilities.shape[1]
        valid = targets != IGNORE_INDEX
        indices = torch.where(valid, targets, 0)
        target_probabilities = probabilities.gather(1, indices[:, None])[:, 0] * valid
        sums = torch.stack([
            probabilities.new_zeros(classes).index_add(0, indices, target_probabilities),
            valid.to(probabilities.dtype) @ probabilities,
            probabilities.new_zeros(classes).index_add(0, indices, valid.to(probabilities.dtype)),
        ])  # fmt: skip
        if self.world_size > 1:
            # The forward pass uses the sums of all ranks, the backward pass the gradient of this rank's sums only: the other
            # ranks contribute their own gradients. The factor cancels the later division of the loss by the world size.
            global_sums = sums.detach().clone()
            dist.all_reduce(global_sums)
            sums = global_sums + self.world_size * (sums - sums.detach())
        intersection, predicted, labeled = sums
        present = labeled > 0
        dice = (2 * intersection + DICE_SMOOTHING) / (predicted + labeled + DICE_SMOOTHING)
        return 1 - (dice * present).sum() / present.sum().clamp(min=1), labeled.sum(dtype=torch.float64)


def class_weights(kind: Literal["none", "sqrt", "data"], pixels: Sequence[int], device: torch.device) -> Tensor | None:
    """Return class weights (K,) float32 for the cross-entropy from the number of pixels of each class; None for `none`.

    `data` is 1 / ln(1.02 + fraction of the pixels): 1.42 for a class that covers all pixels, 50.5 for one that never occurs.
    `sqrt` is the square root of that, 1.19 to 7.1: rare classes gain less, and frequent classes lose less.

    Source of `data`: Paszke et al. 2016, section 5.2.
    """
    if kind == "none":
        return None
    fraction = torch.tensor(pixels, dtype=torch.float64) / max(sum(pixels), 1)
    weights = 1 / torch.log(1.02 + fraction)
    return (weights.sqrt() if kind == "sqrt" else weights).float().to(device)
