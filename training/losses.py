"""What is minimised: cross-entropy, soft Dice or both, of all ranks and parts of a batch together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from core.labels import VOID

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
        """This rank's share of the loss for one part: logits (N, K, H, W) float32, labels (N, H, W) uint8 train ids."""
        targets = labels.long()
        share = logits.new_zeros(())
        if self.cross_entropy:
            summed = F.cross_entropy(logits, targets, self.weights, ignore_index=VOID, reduction="sum")
            share = share + summed / total[0].clamp(min=1e-6).float()
        if self.dice:
            dice, pixels = self._dice(logits, targets)
            share = share + dice * (pixels / total[1].clamp(min=1)).float() / self.ranks
        return share

    def _dice(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """1 - mean soft Dice of the classes that the labels hold (Milletari et al. 2016, section 3, without squares), and the
        valid pixels of this part, on all ranks, as a float64."""
        valid = (targets != VOID)[:, None]
        probabilities = logits.softmax(1) * valid
        truth = F.one_hot(targets.clamp(max=logits.shape[1] - 1), logits.shape[1]).permute(0, 3, 1, 2) * valid
        over = (0, 2, 3)
        sums = torch.stack([(probabilities * truth).sum(over), probabilities.sum(over), truth.sum(over).to(logits.dtype)])
        if self.ranks > 1:
            # all ranks' sums in the forward pass, this rank's in the backward pass: the others bring their own gradients,
            # and each, being told the `ranks`th part of the loss, must not take only that part of its gradient
            everywhere = sums.detach().clone()
            dist.all_reduce(everywhere)
            sums = everywhere + self.ranks * (sums - sums.detach())
        common, predicted, labelled = sums
        there = labelled > 0
        dice = (2 * common + EPSILON) / (predicted + labelled + EPSILON)
        return 1 - (dice * there).sum() / there.sum().clamp(min=1), labelled.sum(dtype=torch.float64)


def class_weights(pixels: Sequence[int], device: torch.device) -> Tensor:
    """Weights (K,) float32 from the pixels of each class: 1 / ln(1.02 + share) (Paszke et al. 2016, section 5.2).

    Between 1.42 for a class that is everywhere and 50.5 for one that never is.
    """
    share = torch.tensor(pixels, dtype=torch.float64) / max(sum(pixels), 1)
    return (1 / torch.log(1.02 + share)).float().to(device)
