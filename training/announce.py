"""The lines on the terminal that tell what a run is about to do, before its first step."""

from __future__ import annotations

import torch
from torch import nn

from core.datasets import Dataset
from training.config import TrainConfig
from training.distributed import World
from training.loading import EpochBatches

SLOW_WIDTH = 32  # above it a step takes seconds on a CPU


def announce(
    config: TrainConfig,
    world: World,
    precision: str,
    network: nn.Module,
    train_set: Dataset,
    val_set: Dataset,
    batches: EpochBatches,
) -> None:
    """Tell what is about to happen."""
    weights = sum(p.numel() for p in network.parameters())
    gpu = world.device.type == "cuda"
    cpu = "the CPU" + f", {world.ranks} processes" * (world.ranks > 1)
    devices = f"{world.ranks} x {torch.cuda.get_device_name()}" if gpu else cpu
    print(f"{config.model}, width {config.width}: {weights:,} parameters, on {devices}, in {precision}")
    if not gpu and config.width > SLOW_WIDTH:
        print(f"a CPU takes long for width {config.width}: --width 16 has a sixteenth of the arithmetic")
    counts = f"{len(train_set)} training and {len(val_set)} validation images"
    print(f"data: {train_set.name}, {counts}, {len(train_set.labels)} classes")
    size = "x".join(map(str, config.size))
    print(f"{config.epochs} epochs of {len(batches)} steps of {config.batch_size} images of {size}, learning rate"
          f" {config.learning_rate:g} ({config.schedule}), {config.loss}, {config.augment}")  # fmt: skip
    if batches.dropped:
        print(f"each epoch drops its last {batches.dropped} samples: less than a batch of {config.batch_size}")
    if world.ranks > 1 and not gpu:
        print("batch norm: each process normalises its own share (torch has no SyncBatchNorm on a CPU)")
    print(f"run folder: {config.run_folder}  (tensorboard --logdir {config.run_folder.parent})", flush=True)
