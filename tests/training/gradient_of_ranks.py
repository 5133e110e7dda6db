"""One training step of fixed samples shared by all ranks; rank 0 saves the gradient. Run by test_distributed."""

import sys

import numpy as np
import torch
from torch import nn

from training.distributed import join
from training.loop import train_step, wrap


def main(path: str) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 5, 1))  # no batch norm: it is per rank
    images = torch.randn(5, 3, 16, 16)
    labels = torch.randint(0, 5, (5, 16, 16), dtype=torch.uint8)
    labels[0] = 255  # the void is spread unevenly, and so are five samples over two ranks
    labels[3, :12] = 255
    with join(use_gpu=False) as world:
        optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
        mine = slice(world.rank, None, world.ranks)
        train_step(wrap(network, world), optimizer, images[mine], labels[mine], world)
        if world.main:
            np.savez(path, *[p.grad.numpy() for p in network.parameters() if p.grad is not None])


if __name__ == "__main__":
    main(sys.argv[1])
