"""What is minimised: cross-entropy, soft Dice or both, of all ranks and parts of a batch together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from core.data.labels import VOID

EPSILON = 1.0  # pixels, in the Dice quotient: a class that nobody sees counts as found


class Loss:
    """A mean over the valid pixels of a whole global batch, told in shares that add up to it.

    A global batch is spread over ranks and goes through in parts. `total` of all its labels, summed over all of them,
    is what each share of the cross-entropy is divided by: so the mean is that of one process and one part. Dice is a
    quotient of sums, taken per part over all ranks, and the parts' mean is one over their valid pixels.
    """

    def __init__(self, kind: str, weights: Tensor | None, ranks: int) -> None:
        self.cross_entropy, self.dice = (name in kind.split("+") for name in ("ce", "dice"))
        self.weights, self.ranks = weights, ranks

    def total(self, labels: Tensor) -> Tensor:
        """Valid pixels of labels (N, H, W) uint8 train ids, weighted by their class, and as they are: (2,) float64."""
        valid = labels != VOID
        pixels = valid.sum(dtype=torch.float64)
        if self.weights is None:
            return torch.stack((pixels, pixels))
        weighted = (self.weights[torch.where(valid, labels, 0).long()] * valid).sum(dtype=torch.float64)
        return torch.stack((weighted, pixels))

    def __call__(self, logits: Tensor, labels: Tensor, total: Tensor) -> Tensor:
        """Return this rank's share of the loss for one part of the batch.

        Args:
            logits: (N, K, H, W) float32.
            labels: (N, H, W) uint8 train ids, 255 void.
            total: (2,) float64, the sum of `total(labels)` over all ranks and parts.

        """
        # One row a pixel: reductions over classes are contiguous, three times as fast as over dim 1 of channels-last logits.
        log_probabilities = logits.permute(0, 2, 3, 1).reshape(-1, logits.shape[1]).log_softmax(1)
        targets = labels.reshape(-1).long()
        share = logits.new_zeros(())
        if self.cross_entropy:
            summed = F.nll_loss(log_probabilities, targets, self.weights, ignore_index=VOID, reduction="sum")
            share = share + summed / total[0].clamp(min=1e-6).float()
        if self.dice:
            dice, pixels = self._dice(log_probabilities.exp(), targets)
            share = share + dice * (pixels / total[1].clamp(min=1)).float() / self.ranks
        return share

    def _dice(self, probabilities: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return one minus the mean soft Dice of the labelled classes, and the number of valid pixels on all ranks.

        Args:
            probabilities: (P, K) float32, one row a pixel.
            targets: (P,) int64 train ids, 255 void.

        Source: Milletari et al. 2016, section 3, without the squares in the denominator.
        """
        classes = probabilities.shape[1]
        valid = targets != VOID
        indices = torch.where(valid, targets, 0)
        of_label = probabilities.gather(1, indices[:, None])[:, 0] * valid
        sums = torch.stack([
            probabilities.new_zeros(classes).index_add(0, indices, of_label),
            valid.to(probabilities.dtype) @ probabilities,
            probabilities.new_zeros(classes).index_add(0, indices, valid.to(probabilities.dtype)),
        ])  # fmt: skip
        if self.ranks > 1:
            # The forward pass uses the sums of all ranks, the backward pass only this rank's: the other ranks contribute
            # their own gradients, and this rank's share of the loss is later divided by the number of ranks.
            everywhere = sums.detach().clone()
            dist.all_reduce(everywhere)
            sums = everywhere + self.ranks * (sums - sums.detach())
        common, predicted, labelled = sums
        present = labelled > 0
        dice = (2 * common + EPSILON) / (predicted + labelled + EPSILON)
        return 1 - (dice * present).sum() / present.sum().clamp(min=1), labelled.sum(dtype=torch.float64)


def class_weights(pixels: Sequence[int], device: torch.device) -> Tensor:
    """Weights (K,) float32 from the pixels of each class: 1 / ln(1.02 + share) (Paszke et al. 2016, section 5.2).

    Between 1.42 for a class that is everywhere and 50.5 for one that never is.
    """
    share = torch.tensor(pixels, dtype=torch.float64) / max(sum(pixels), 1)
    return (1 / torch.log(1.02 + share)).float().to(device)
