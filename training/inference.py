"""Opening a checkpoint on this rank, for the commands that run a trained network."""

from __future__ import annotations

from core.backends.base import ONNX, OPENVINO
from core.checkpoints.checkpoint import Checkpoint
from core.inference.segmenter import Segmenter
from training.distributed.context import DistributedContext


def open_segmenter(checkpoint: Checkpoint | str, device: str, backend: str, context: DistributedContext) -> Segmenter:
    """Open a checkpoint on this rank's device.

    Raises InputError, also if the ranks opened different networks: a run in progress may have replaced its best checkpoint.
    """
    segmenter = Segmenter(checkpoint, local_device(device, backend, context), backend)
    context.require_same(
        (segmenter.backend.name, segmenter.backend.digest),
        "CHECKPOINT: different weights or another backend (a run in progress may have saved a better one; try again)",
    )
    return segmenter


def local_device(device: str, backend: str, context: DistributedContext) -> str:
    """Return the device to use on this rank: of several ranks each has its own GPU, unless `cuda:N` is specified.

    `auto` is the CPU for OpenVINO and ONNX Runtime.
    """
    if context.world_size == 1 or backend.startswith(OPENVINO) or (backend == ONNX and device == "auto"):
        return device
    return context.device_name if device in ("auto", context.device_name.split(":")[0]) else device
