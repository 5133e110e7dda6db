"""Run one training step of a fixed batch on all ranks for each case, and save gradients and loss sums.

torchrun -m tests.support.distributed_gradients OUTPUT.npz "LOSS CLASS_WEIGHTS MICRO_BATCHES"...

The arrays are named "CASE INDEX". One rank processes the whole batch at once, as the reference for the others.
"""

from __future__ import annotations

import os
import sys

import numpy as np
import torch
from torch import nn

from core.data.labels import IGNORE_INDEX
from core.images.resize import Preprocess
from training.data.loader import Batch
from training.distributed.context import DistributedContext, init_distributed
from training.engine.losses import SegmentationLoss
from training.engine.network import wrap_ddp
from training.engine.step import EpochAccumulators, TrainStep


def compute_gradients(context: DistributedContext, loss: str, weighted: bool, micro_batches: int) -> list[np.ndarray]:
    """Return the gradient of every weight after one step, and the sums of the loss over all ranks."""
    torch.manual_seed(0)
    # Without batch norm, whose statistics differ between ranks.
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 5, 1))
    images = torch.randint(0, 256, (6, 16, 16, 3), dtype=torch.uint8)
    labels = torch.randint(0, 5, (6, 16, 16), dtype=torch.uint8)
    labels[0] = IGNORE_INDEX  # Ranks have different numbers of valid pixels.
    labels[3, :12] = IGNORE_INDEX
    weights = torch.tensor([1.0, 2.0, 0.5, 4.0, 1.5]) if weighted else None
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-12, fused=True)
    criterion = SegmentationLoss(loss, weights, context.world_size)
    model = wrap_ddp(network, context)
    step = TrainStep(network, model, optimizer, criterion, context, Preprocess(), accumulation_steps=micro_batches)
    shard = slice(context.rank, None, context.world_size)
    sums = EpochAccumulators(5, context.device)
    step(Batch(images[shard], labels[shard]), sums)
    loss_sums = sums.loss_sums.numpy()
    context.all_reduce_sum(loss_sums)
    return [*(p.grad.numpy() for p in network.parameters() if p.grad is not None), loss_sums]


def main(output: str, *cases: str) -> None:
    with init_distributed(use_gpu=False) as context:
        arrays = {}
        for case in cases:
            loss, weighted, micro_batches = case.split()
            count = int(micro_batches) if context.world_size > 1 else 1
            gradients = compute_gradients(context, loss, weighted == "True", count)
            arrays |= {f"{case} {index}": array for index, array in enumerate(gradients)}
        if context.is_main:
            np.savez(output, **arrays)


if __name__ == "__main__":
    main(*sys.argv[1:])
    os._exit(0)  # Gloo's threads can abort a process during a regular interpreter shutdown.
