"""Choose the backend of a checkpoint and load it; each backend is imported only when it is chosen."""

from __future__ import annotations

import ctypes
import logging
import sys
from functools import cache
from importlib.util import find_spec

from core.backends.base import BACKENDS, ONNX, OPENVINO, TORCH, Backend
from core.checkpoints.checkpoint import Checkpoint
from core.checkpoints.exported import PRECISIONS, ExportedModel, export_dir, read_exported_model
from core.checkpoints.onnx_file import OnnxFile, onnx_path, read_onnx_file
from core.errors import CheckpointError, InputError

log = logging.getLogger("core")


def load_backend(checkpoint: Checkpoint, device: str = "auto", backend: str = "auto") -> Backend:
    """Load the backend of a checkpoint; every command and the service choose here.

    Args:
        checkpoint: The checkpoint, whose exported models are searched for beside its file.
        device: `auto` (the first GPU, or the CPU if there is none), `cpu`, `cuda` or `cuda:N`.
        backend: `auto` or one of BACKENDS. On a CPU, `auto` prefers an exported model: int8, then fp32, then torch. Without
            torch, the last resort is an ONNX file, on any device.

    Raises:
        InputError: The backend or the device is unknown or not available.
        CheckpointError: The weights do not fit the architecture, or the exported model is missing, damaged or made
            from another checkpoint.
    """
    exported = _find_export(checkpoint, device, backend)
    if exported:
        try:
            from core.backends import openvino

            return openvino.OpenVinoBackend.load(exported, checkpoint.metadata.preprocess, device)
        except (CheckpointError, ImportError) as error:
            if backend != "auto":
                raise
            log.warning("exported model not used: %s", error)
    onnx_file = _find_onnx_file(checkpoint, backend)
    if onnx_file:
        from core.backends import onnx

        return onnx.OnnxBackend.load(onnx_file, checkpoint.metadata.preprocess, device)
    _require_torch(checkpoint)
    from core.backends import torch_cpu

    return torch_cpu.load_torch(checkpoint, device, backend if backend.startswith(TORCH) else "auto")


def resolve_backend(checkpoint: Checkpoint, device: str = "auto", backend: str = "auto") -> tuple[str, str]:
    """Return the name of the backend that `load_backend` would load and the digest of what it would run.

    The name is empty if only loading can decide it: on a GPU, `auto` chooses between fp32 and half precision by
    comparing their masks. Raises the errors of `load_backend`, except those that only loading reveals.
    """
    exported = _find_export(checkpoint, device, backend)
    if exported:
        return OPENVINO + exported.manifest.precision, exported.digest
    onnx_file = _find_onnx_file(checkpoint, backend)
    if onnx_file:
        return ONNX, onnx_file.digest
    _require_torch(checkpoint)
    if backend == "auto":
        return TORCH if _on_cpu(device) else "", checkpoint.digest
    return backend, checkpoint.digest


def check_weights(checkpoint: Checkpoint) -> None:
    """Raise CheckpointError if the weights do not fit their architecture; do nothing while torch is not imported.

    Importing torch takes seconds and hundreds of megabytes, which a service of exported models never needs. A misfit
    that is missed here is reported when the backend is loaded.
    """
    if "torch" in sys.modules:
        from core.backends import torch_weights

        torch_weights.check_weights(checkpoint)


def _find_export(checkpoint: Checkpoint, device: str, backend: str) -> ExportedModel | None:
    """Return the exported model to run, or None if torch is to run the checkpoint.

    With `auto`, an exported model that can't be used is skipped with a warning: the checkpoint gives equally good
    masks, only slower.
    """
    if backend not in ("auto", *BACKENDS):
        raise InputError(f"unknown backend {backend!r}; expected auto, {', '.join(BACKENDS)}")
    if backend.startswith(OPENVINO):
        return read_exported_model(export_dir(checkpoint.path, backend.removeprefix(OPENVINO)), checkpoint.digest)
    if backend == "auto" and _on_cpu(device):
        for precision in PRECISIONS:
            directory = export_dir(checkpoint.path, precision)
            try:
                if directory.is_dir():
                    return read_exported_model(directory, checkpoint.digest)
            except CheckpointError as error:
                log.warning("exported model not used: %s", error)
    return None


def _find_onnx_file(checkpoint: Checkpoint, backend: str) -> OnnxFile | None:
    """Return the ONNX file to run, or None if torch is to run the checkpoint.

    With `auto`, it is used only if torch is not installed.
    """
    path = onnx_path(checkpoint.path)
    last_resort = backend == "auto" and not _is_installed("torch") and _is_installed("onnxruntime") and path.is_file()
    if backend != ONNX and not last_resort:
        return None
    if not _is_installed("onnxruntime"):
        raise InputError(
            f"the backend {ONNX} needs ONNX Runtime; run pip install onnxruntime (on a GPU: pip install onnxruntime-gpu)"
        )
    return read_onnx_file(path, checkpoint.digest)


def _is_installed(package: str) -> bool:
    return find_spec(package) is not None


def _require_torch(checkpoint: Checkpoint) -> None:
    """Raise CheckpointError if torch is not installed, without importing it."""
    if not _is_installed("torch"):
        raise CheckpointError(
            f"{checkpoint.path}: torch is not installed, and there is no usable exported model beside the checkpoint;"
            f" install torch, or export the model on a computer that has it:"
            f" python -m training export {checkpoint.path} --fp32 (or --onnx, for ONNX Runtime)"
        )


def _on_cpu(device: str) -> bool:
    return device == "cpu" or (device == "auto" and not gpu_count())


@cache
def gpu_count() -> int:
    """Return the number of GPUs that torch can use; torch is imported only if NVIDIA's driver reports at least one."""
    count = ctypes.c_int(0)
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        working = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
    except OSError:
        return 0
    if not working or not count.value:
        return 0
    try:
        from core.backends import torch_cpu
    except ImportError as error:
        if error.name != "torch":
            raise
        log.warning("torch is not installed, so the GPU is not used; models run on the CPU")
        return 0
    return torch_cpu.device_count()
