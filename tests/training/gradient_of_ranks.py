"""One training step of fixed samples shared by all ranks; rank 0 saves the gradient. Run by test_distributed."""

import os
import sys

import numpy as np
import torch
from torch import nn

from core.transforms import Preprocess
from training.distributed import join
from training.loading import Batch
from training.losses import Loss
from training.network import wrap
from training.step import Step, Sums


def main(path: str, kind: str, weighted: bool, parts: int) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 5, 1))  # no batch norm: it is per rank
    images = torch.randint(0, 256, (6, 16, 16, 3), dtype=torch.uint8)
    labels = torch.randint(0, 5, (6, 16, 16), dtype=torch.uint8)
    labels[0] = 255  # the void is spread unevenly
    labels[3, :12] = 255
    weights = torch.tensor([1.0, 2.0, 0.5, 4.0, 1.5]) if weighted else None
    with join(use_gpu=False) as world:
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-12, fused=True)
        step = Step(network, wrap(network, world), optimizer, Loss(kind, weights, world.ranks, parts), world, Preprocess())
        mine = slice(world.rank, None, world.ranks)
        sums = Sums(5, world.device)
        step(Batch(images[mine], labels[mine]), sums)
        loss = sums.loss.numpy()
        world.add(loss)
        if world.main:
            np.savez(path, *[p.grad.numpy() for p in network.parameters() if p.grad is not None], loss=loss)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3] == "True", int(sys.argv[4]))
    os._exit(0)  # as the command does: gloo's threads now and then abort a process that is being taken down
