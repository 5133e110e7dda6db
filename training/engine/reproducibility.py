"""What the bits of a run depend on beside its configuration, so that a resumed one can tell when they will differ."""

from __future__ import annotations

from typing import Any

import torch

from training.config import TrainConfig
from training.data.training_data import Survey
from training.distributed.context import World
from training.engine.network import use_bf16


def conditions(config: TrainConfig, world: World, survey: Survey) -> dict[str, Any]:
    """Processes, device, threads, precision, torch, every pixel and label of the data, and a cosine's length."""
    on = {"ranks": world.ranks, "device": world.device.type, "threads": torch.get_num_threads()}
    on |= {"precision": "bf16" if use_bf16(config.precision, world.device) else "fp32"}
    on |= {"torch": torch.__version__, "data": f"{survey.train.digest[:16]} {survey.val.digest[:16]}"}
    return on | ({"epochs": config.epochs} if config.schedule == "cosine" else {})


def changed(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """In words, what is not as it was."""
    return [f"{key} {now[key]} instead of {before[key]}" for key in now if before.get(key, now[key]) != now[key]]
