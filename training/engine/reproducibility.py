"""What the bits of a run depend on besides its configuration, to detect that a resumed run will differ."""

from __future__ import annotations

from typing import Any

import torch

from training.config import TrainConfig
from training.data.training_data import DataScan
from training.distributed.context import DistributedContext
from training.engine.network import use_bf16


def environment(config: TrainConfig, context: DistributedContext, scan: DataScan) -> dict[str, Any]:
    """Return processes, device, threads, precision, torch version and data digests, and for a cosine schedule its length."""
    values: dict[str, Any] = {
        "world_size": context.world_size,
        "device": context.device.type,
        "threads": torch.get_num_threads(),
        "precision": "bf16" if use_bf16(config.precision, context.device) else "fp32",
        "torch": torch.__version__,
        "data": " ".join(index.digest[:16] for index in (*scan.train, *scan.val)),
    }
    if config.schedule == "cosine":
        values["epochs"] = config.epochs
    return values


def describe_changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return a text for each value that differs: `threads 2 instead of 1`."""
    return [f"{key} {now[key]} instead of {before[key]}" for key in now if before.get(key, now[key]) != now[key]]


def is_deterministic(device: torch.device) -> bool:
    """Return whether training on a device is bitwise reproducible.

    It is not on CUDA: there the backward pass of bilinear upsampling adds gradients with atomics, in any order.
    """
    return device.type != "cuda"
