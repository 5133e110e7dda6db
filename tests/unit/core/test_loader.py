"""Tests of core.backends.loader: errors of checkpoints, devices and backends that can't be loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.backends.loader import load_backend
from core.checkpoints.checkpoint import read_checkpoint, write_checkpoint
from core.errors import CheckpointError, InputError
from core.inference.segmenter import Segmenter


def test_unknown_device_lists_available_ones(checkpoint: Path) -> None:
    with pytest.raises(InputError, match="device 'tpu' is not available; expected one of: auto, cpu"):
        load_backend(read_checkpoint(checkpoint), device="tpu")


def test_unknown_backend_lists_known_ones(checkpoint: Path) -> None:
    with pytest.raises(InputError, match="unknown backend 'abacus'; expected auto, torch"):
        load_backend(read_checkpoint(checkpoint), backend="abacus")


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ("unet", "do not fit the architecture"),
        ("segnet", "unknown architecture 'segnet'; this version supports unet, r2unet, ddunet"),
    ],
)
def test_mismatched_architecture_is_rejected(checkpoint: Path, tmp_path: Path, architecture: str, message: str) -> None:
    ddunet = read_checkpoint(checkpoint)
    path = tmp_path / "wrong.safetensors"
    renamed = ddunet.metadata.architecture.model_copy(update={"name": architecture})
    write_checkpoint(path, ddunet.metadata.model_copy(update={"architecture": renamed}), ddunet.tensors)
    with pytest.raises(CheckpointError, match=message):
        Segmenter(path)
