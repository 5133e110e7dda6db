"""What a model costs: weights, arithmetic, training speed, and the memory of a process that segments with it."""

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
from core.runtime.malloc import keep_freed_memory
from training.comparison.contestants import Contestant
from training.comparison.peak import Peak
from training.data.loader import Batch
from training.distributed.context import World
from training.engine.losses import Loss
from training.engine.network import use_bf16
from training.engine.oom import out_of_memory
from training.engine.step import Step, Sums
from training.tracking.progress_bar import bar

_Kind = tuple[Architecture, Size]  # of models that cost the same
BATCH = 8  # of the training steps that are timed: the family's batch size


def training_speeds(contestants: Sequence[Contestant], device: torch.device, steps: int) -> list[float | None]:
    """Images a second of a training step of 8 images at the size that each model was trained at.

    None where it does not fit the memory, or where `steps` is 0. The models take turns, and the median of `steps` steps
    after a first one is told; those of one architecture and size are timed once.
    """
    if not steps:
        return [None] * len(contestants)
    keep_freed_memory()
    kinds = {_kind(c): c for c in contestants}
    trainings: dict[_Kind, tuple[Step, Batch, Sums]] = {}
    seconds: dict[_Kind, list[float]] = {kind: [] for kind in kinds}
    for _ in bar("timing training", True, range(steps + 1), unit="round"):
        for kind, contestant in kinds.items():
            try:
                step, batch, sums = trainings[kind] = trainings.get(kind) or _training(contestant, device)
                start = time.perf_counter()
                step(batch, sums)
                float(sums.loss[0])  # waits for the device
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                continue
            seconds[kind].append(time.perf_counter() - start)
    found = {kind: BATCH / statistics.median(times[1:]) if times[1:] else None for kind, times in seconds.items()}
    return [found[_kind(c)] for c in contestants]


def _kind(contestant: Contestant) -> _Kind:
    return contestant.checkpoint.card.architecture, contestant.segmenter.preprocess.size


def _training(contestant: Contestant, device: torch.device) -> tuple[Step, Batch, Sums]:
    architecture, preprocess = contestant.checkpoint.card.architecture, contestant.segmenter.preprocess
    classes = len(contestant.segmenter.labels)
    network = build_model(architecture.name, classes, architecture.width)
    network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (BATCH, *preprocess.size, 3), np.uint8))
    labels = torch.from_numpy(rng.integers(0, classes, (BATCH, *preprocess.size), np.uint8))
    optimizer = Adam(network.parameters(), fused=True)
    loss, world = Loss("ce", None, 1), World(device=device)
    step = Step(network, network, optimizer, loss, world, preprocess, bf16=use_bf16("auto", device))
    return step, Batch(images, labels), Sums(classes, device)


def peak_memories(contestants: Sequence[Contestant], photo: Size, backend: str) -> list[Peak | None]:
    """Memory at its highest in a process of its own that segments photographs of a size with a model: one process for those
    that take the same: of one architecture, input and file size. None, with a warning, where it fails."""
    kinds = [
        (_kind(c), c.segmenter.preprocess.mode, c.segmenter.backend.name, c.checkpoint.path.stat().st_size) for c in contestants
    ]
    found = {kind: _peak_memory(c, photo, backend) for kind, c in dict(zip(kinds, contestants, strict=True)).items()}
    return [found[kind] for kind in kinds]


def _peak_memory(contestant: Contestant, photo: Size, backend: str) -> Peak | None:
    path, device = contestant.checkpoint.path, contestant.segmenter.backend.device
    command = [sys.executable, "-m", "training.comparison.peak", str(path), device, backend, *map(str, photo)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 -- this project's own module
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit {done.returncode}"
        print(f"warning: {contestant.name}: its memory could not be measured ({reason})", flush=True)
        return None
    return Peak(**json.loads(done.stdout))
