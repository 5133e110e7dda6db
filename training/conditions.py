"""What the bits of a run depend on beside its configuration, so that a resumed one can tell when they will differ."""

from __future__ import annotations

import hashlib
from pathlib import PurePath
from typing import Any

import torch

from core.datasets import Dataset
from training.config import TrainConfig
from training.distributed import World


def conditions(config: TrainConfig, world: World, train_set: Dataset, pixels: list[int]) -> dict[str, Any]:
    """Processes, device, threads, torch, the training data (with the pixels of each class), and a cosine's length."""
    on = {"ranks": world.ranks, "device": world.device.type, "threads": torch.get_num_threads()}
    on |= {"torch": torch.__version__, "data": fingerprint(train_set, pixels)}
    return on | ({"epochs": config.epochs} if config.schedule == "cosine" else {})


def changed(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """In words, what is not as it was."""
    return [f"{key} {now[key]} instead of {before[key]}" for key in now if before.get(key, now[key]) != now[key]]


def fingerprint(dataset: Dataset, pixels: list[int]) -> str:
    """What tells one set of training files from another: their number, names and labels, wherever they lie."""
    content = [*(PurePath(dataset.where(index)).name for index in range(len(dataset))), *map(str, pixels)]
    return f"{len(dataset)} files, {hashlib.sha256(chr(10).join(content).encode()).hexdigest()[:16]}"
