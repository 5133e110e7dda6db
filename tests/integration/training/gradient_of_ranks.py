"""Training steps of fixed samples shared by all ranks, a case each; rank 0 saves the gradients. Run by test_distributed."""

import os
import sys

import numpy as np
import torch
from torch import nn

from core.images.resize import Preprocess
from training.data.loader import Batch
from training.distributed.context import World, join
from training.engine.losses import Loss
from training.engine.network import wrap
from training.engine.step import Step, Sums


def gradient(world: World, kind: str, weighted: bool, parts: int) -> list[np.ndarray]:
    """The gradient of every weight after one step, and the sums of the loss."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 5, 1))  # no batch norm: it is per rank
    images = torch.randint(0, 256, (6, 16, 16, 3), dtype=torch.uint8)
    labels = torch.randint(0, 5, (6, 16, 16), dtype=torch.uint8)
    labels[0] = 255  # the void is spread unevenly
    labels[3, :12] = 255
    weights = torch.tensor([1.0, 2.0, 0.5, 4.0, 1.5]) if weighted else None
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-12, fused=True)
    loss = Loss(kind, weights, world.ranks)
    step = Step(network, wrap(network, world), optimizer, loss, world, Preprocess(), parts=parts)
    mine = slice(world.rank, None, world.ranks)
    sums = Sums(5, world.device)
    step(Batch(images[mine], labels[mine]), sums)
    loss = sums.loss.numpy()
    world.add(loss)
    return [*(p.grad.numpy() for p in network.parameters() if p.grad is not None), loss]


def main(path: str, *cases: str) -> None:
    with join(use_gpu=False) as world:
        found = {}
        for case in cases:
            kind, weighted, parts = case.split()
            # one rank is what the others are compared with: it takes its samples in one part
            arrays = gradient(world, kind, weighted == "True", int(parts) if world.ranks > 1 else 1)
            found |= {f"{case} {place}": array for place, array in enumerate(arrays)}
        if world.main:
            np.savez(path, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
    os._exit(0)  # as the command does: gloo's threads now and then abort a process that is being taken down
