"""Write small checkpoints with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from core.backends.torch_weights import state_dict_numpy
from core.checkpoints.checkpoint import Architecture, CheckpointMetadata, write_checkpoint
from core.data.labels import CITYSCAPES, LabelSpace
from core.images.resize import Preprocess
from core.models import build_model


def make_checkpoint(
    path: Path,
    name: str = "ddunet",
    width: int = 4,
    labels: LabelSpace = CITYSCAPES,
    seed: int = 0,
    size: tuple[int, int] = (64, 64),
    resize: Literal["fit", "stretch"] = "fit",
    miou: float | None = None,
    scored_on: str | None = None,
) -> Path:
    """Write a checkpoint with random weights to `path` and return `path`.

    Three training-mode forward passes randomize the batch norm statistics too, so that a back end that ignores any part
    of the network gives a different result.

    Args:
        path: file to write; missing parent directories are created.
        name: architecture, a key of `core.models.MODELS`.
        width: number of base channels.
        labels: label space; its length is the number of classes.
        seed: random seed of the weights.
        size: network input size as (height, width) in pixels.
        resize: whether an image keeps its aspect ratio or is stretched to `size`.
        miou: mIoU in the metadata, measured on the data that `scored_on` describes.
        scored_on: description of that data.
    """
    torch.manual_seed(seed)
    network = build_model(name, len(labels), width)
    network.train()
    with torch.no_grad():
        for _ in range(3):
            network(torch.randn(2, 3, 64, 64))
    metadata = CheckpointMetadata(
        architecture=Architecture(name=name, width=width),
        labels=labels,
        preprocess=Preprocess(mode=resize, size=size, stride=network.stride, reduce_jpeg=True),
        data="random",
        epoch=0,
        scores={} if miou is None else {"miou_present": miou},
        scored_on=scored_on,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_checkpoint(path, metadata, state_dict_numpy(network))
    return path


def make_checkpoints(directory: Path, *names: str) -> Path:
    """Write a checkpoint `NAME.safetensors` with different weights for each name, and return `directory`."""
    for seed, name in enumerate(names):
        make_checkpoint(directory / f"{name}.safetensors", seed=seed)
    return directory
