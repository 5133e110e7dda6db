"""Measured costs of the models: training speed, and peak memory of inference."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

import numpy as np
import torch
from torch.optim import Adam

from core.checkpoints.checkpoint import Architecture
from core.images.resize import Size
from core.models import build_model
from core.runtime.malloc import tune_malloc
from training.comparison.memory_probe import PeakMemory
from training.comparison.models import ComparedModel
from training.data.loader import Batch
from training.distributed.context import DistributedContext
from training.engine.losses import SegmentationLoss
from training.engine.network import use_bf16
from training.engine.oom import is_out_of_memory
from training.engine.step import EpochAccumulators, TrainStep
from training.tracking.progress_bar import progress_bar

BATCH_SIZE = 8  # of the timed training steps

_CostKey = tuple[Architecture, Size]  # architecture and input size: models that share them have the same costs


def training_speeds(models: Sequence[ComparedModel], device: torch.device, steps: int) -> list[float | None]:
    """Return the training speed of each model at its training size in images per second.

    Args:
        steps: Number of timed steps per model, after one warm-up step; 0 measures nothing.

    The models take turns, so that all of them see the same load of the computer; the median of the steps counts. A model that
    does not fit in memory, or is not measured, has the speed None.
    """
    if not steps:
        return [None] * len(models)
    tune_malloc()
    distinct = {_cost_key(model): model for model in models}
    trainings: dict[_CostKey, tuple[TrainStep, Batch, EpochAccumulators]] = {}
    seconds: dict[_CostKey, list[float]] = {key: [] for key in distinct}
    for _ in progress_bar("timing training", True, range(steps + 1), unit="round"):
        for key, model in distinct.items():
            try:
                step, batch, accumulators = trainings[key] = trainings.get(key) or _training(model, device)
                start = time.perf_counter()
                step(batch, accumulators)
                float(accumulators.loss_sums[0])  # waits for the device
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                continue
            seconds[key].append(time.perf_counter() - start)
    speeds = {key: BATCH_SIZE / statistics.median(times[1:]) if times[1:] else None for key, times in seconds.items()}
    return [speeds[_cost_key(model)] for model in models]


def _cost_key(model: ComparedModel) -> _CostKey:
    return model.checkpoint.metadata.architecture, model.segmenter.preprocess.size


def _training(model: ComparedModel, device: torch.device) -> tuple[TrainStep, Batch, EpochAccumulators]:
    """Build a training step with fresh weights, and a batch of random images and labels."""
    architecture, preprocess = model.checkpoint.metadata.architecture, model.segmenter.preprocess
    num_classes = len(model.segmenter.labels)
    network = build_model(architecture.name, num_classes, architecture.width)
    network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (BATCH_SIZE, *preprocess.size, 3), np.uint8))
    labels = torch.from_numpy(rng.integers(0, num_classes, (BATCH_SIZE, *preprocess.size), np.uint8))
    optimizer = Adam(network.parameters(), fused=True)
    loss, context = SegmentationLoss("ce", None, 1), DistributedContext(device_name=str(device))
    step = TrainStep(network, network, optimizer, loss, context, preprocess, bf16=use_bf16("auto", device))
    return step, Batch(images, labels), EpochAccumulators(num_classes, device)


def peak_memories(models: Sequence[ComparedModel], image_size: Size) -> list[PeakMemory | None]:
    """Return the peak memory of inference with each model on images of a size (height, width).

    Each measurement is a process of its own; models with the same architecture, preprocessing and file size share one. A failed
    measurement is None, with a warning.
    """
    keys = [
        (_cost_key(model), model.segmenter.preprocess.mode, model.segmenter.backend.name, model.checkpoint.path.stat().st_size)
        for model in models
    ]
    peaks = {key: _peak_memory(model, image_size) for key, model in dict(zip(keys, models, strict=True)).items()}
    return [peaks[key] for key in keys]


def _peak_memory(model: ComparedModel, image_size: Size) -> PeakMemory | None:
    backend = model.segmenter.backend
    command = [sys.executable, "-m", "training.comparison.memory_probe"]
    command += [str(model.checkpoint.path), backend.device, backend.name, *map(str, image_size)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 -- runs a module of this project
    if process.returncode:
        reason = process.stderr.strip().splitlines()[-1] if process.stderr.strip() else f"exit code {process.returncode}"
        print(f"warning: {model.name}: peak memory not measured ({reason})", flush=True)
        return None
    return PeakMemory(**json.loads(process.stdout))
