"""The confusion matrix of label maps that are on a device."""

from __future__ import annotations

import torch
from torch import Tensor

from core.data.labels import IGNORE_INDEX


def confusion_matrix(labels: Tensor, predictions: Tensor, num_classes: int) -> Tensor:
    """Return what `core.evaluation.metrics.confusion_matrix` returns, without synchronizing the device with the host.

    `labels` and `predictions` are integer tensors of one shape; the result is (K, K + 1) int64 on their device.
    """
    columns = num_classes + 1
    cell = labels.long() * columns + predictions.long().clamp(max=num_classes)
    # Void pixels go to one extra cell, which is cut off: selecting by a mask would make the host wait for the device.
    cell = torch.where(labels == IGNORE_INDEX, num_classes * columns, cell).flatten()
    counts = torch.zeros(num_classes * columns + 1, dtype=torch.int64, device=cell.device)
    # `torch.bincount` on a GPU first reads the largest value, which is such a wait, too.
    return counts.scatter_add_(0, cell, torch.ones_like(cell))[:-1].view(num_classes, columns)
