"""One screen that tells what a run is about to do, before its first step."""

from __future__ import annotations

import torch

from core.checkpoints.checkpoint import Architecture
from core.data.datasets import Dataset
from training.config import TrainConfig
from training.data.loader import EpochBatches
from training.distributed.context import World
from training.tracking.model_size import gflop, parameters, saved_bytes

SLOW_WIDTH = 32  # above it a step takes seconds on a CPU
BYTES_A_WEIGHT = 16  # itself, its gradient and Adam's two averages, in fp32
Lines = list[tuple[str, str]]


def announce(
    config: TrainConfig, world: World, precision: str, train_set: Dataset, val_set: Dataset, batches: EpochBatches
) -> None:
    """Tell what is about to happen."""
    architecture, classes = Architecture(name=str(config.model), width=config.width), len(train_set.labels)
    weights, saved = parameters(architecture, classes), saved_bytes(architecture, classes, config.size)
    share = config.batch_size // world.ranks // config.accumulate
    memory = weights * BYTES_A_WEIGHT + saved * max(1, share) / (1 + (precision == "bf16"))
    flops = gflop(architecture, classes, config.size)
    height, width = config.size
    gpu = world.device.type == "cuda"
    size = f"{height}x{width}"
    lines: Lines = [
        ("model", f"{config.model}, width {config.width}: {weights:,} parameters, {flops:.1f} GFLOP a picture of {size}"),
        ("data", f"{train_set.name}: {len(train_set)} training and {len(val_set)} validation images, {classes} classes"),
        ("epochs", f"{config.epochs} of {len(batches)} steps of {config.batch_size} images, {config.augment} augmentation"),
        ("minimised", f"{config.loss}, Adam, learning rate {config.learning_rate:g} ({config.schedule}), in {precision}"),
        ("devices", _devices(world)),
        ("memory", f"about {_bytes(memory)}{_of_memory(world)} for the steps of each process"),
        ("run folder", str(config.run_folder)),
        ("curves", f"tensorboard --logdir {config.run_folder.parent}"),
    ]
    if batches.dropped:
        lines.append(
            ("left out", f"the last {batches.dropped} samples of each epoch: less than a batch of {config.batch_size}")
        )
    if world.ranks > 1 and not gpu:
        lines.append(("batch norm", "each process normalises its own share (torch has no SyncBatchNorm on a CPU)"))
    if not gpu and config.width > SLOW_WIDTH:
        lines.append(("advice", f"a CPU takes long for width {config.width}: --width 16 has a sixteenth of the arithmetic"))
    print("\n".join(f"{name:>10}  {told}" for name, told in lines), flush=True)


def _devices(world: World) -> str:
    if world.device.type == "cuda":
        return f"{world.ranks} x {torch.cuda.get_device_name()}"
    return f"the CPU, {torch.get_num_threads()} threads" + f" in each of {world.ranks} processes" * (world.ranks > 1)


def _of_memory(world: World) -> str:
    if world.device.type == "cuda":
        return f" of {torch.cuda.get_device_properties(world.device).total_memory / 1e9:.0f} GB"
    return ""


def _bytes(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
