"""The training loop that such projects usually have: the baseline of the training benchmarks.

Contiguous tensors, Adam with its defaults, five scores that each compute their own softmax and one-hot encoding,
`loss.item()` after every step, and images that the main process decodes again in every epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.data.datasets import Dataset
from core.images.resize import Preprocess

Score = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]

SCORES: tuple[Score, ...] = (
    lambda tp, fp, fn, tn: (tp + tn) / (tp + fp + fn + tn),
    lambda tp, fp, fn, tn: tp / (tp + fn),
    lambda tp, fp, fn, tn: tn / (tn + fp),
    lambda tp, fp, fn, tn: 2 * tp / (2 * tp + fp + fn),
    lambda tp, fp, fn, tn: tp / (tp + fp + fn),
)


def micro_score(formula: Score, logits: Tensor, labels: Tensor) -> float:
    """Return a micro-averaged score of a batch: logits (N, K, H, W), labels (N, H, W) int64."""
    num_classes = logits.shape[1]
    predicted = F.one_hot(torch.softmax(logits, 1).argmax(1), num_classes).permute(0, 3, 1, 2).float()
    truth = F.one_hot(labels, num_classes).permute(0, 3, 1, 2).float()
    counts = ((predicted * truth), predicted * (1 - truth), (1 - predicted) * truth, (1 - predicted) * (1 - truth))
    return float(formula(*(count.sum() for count in counts)).item())


def naive_step(network: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> None:
    """Run one training step: images (N, 3, H, W) float32, labels (N, H, W) int64."""
    logits = network(images)
    loss = F.cross_entropy(logits, labels)
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    loss.item()
    for formula in SCORES:
        micro_score(formula, logits.detach(), labels)


def naive_batches(dataset: Dataset, augment: Any, preprocess: Preprocess, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches whose images are decoded, resized, augmented and normalized one by one in this process."""
    rng = np.random.default_rng(0)
    order = rng.permutation(len(dataset)).tolist()
    for start in range(0, len(order) - batch_size + 1, batch_size):
        samples = [augment(dataset[index], rng) for index in order[start : start + batch_size]]
        images = torch.stack([torch.from_numpy(preprocess.normalize(rgb)) for rgb, _ in samples])
        labels = torch.stack([torch.from_numpy(labels).long() for _, labels in samples])
        yield images, labels.clamp(max=18)  # one_hot can't encode the void value
