"""The ONNX Runtime backend: ONNX files on a CPU or a GPU, without torch and without OpenVINO."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from core.backends.base import ONNX, Backend, ImageBatch, network_inputs
from core.checkpoints.onnx_file import OnnxFile
from core.errors import CheckpointError, InputError
from core.images.resize import Preprocess
from core.runtime.cpu import INFERENCE_THREADS

CPU_PROVIDER, CUDA_PROVIDER = "CPUExecutionProvider", "CUDAExecutionProvider"
# The kernels are selected without measurements and run without TF32, so that the logits are the same at every start.
CUDA_OPTIONS = {"cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "0"}
ERRORS_ONLY = 3  # the level of ONNX Runtime's log on standard error
Provider = tuple[str, dict[str, str]]  # name and options of what ONNX Runtime calls an execution provider


class OnnxBackend(Backend):
    """Runs a network with ONNX Runtime, each image alone."""

    name = ONNX

    def __init__(self, model: bytes, preprocess: Preprocess, device: str = "auto", digest: str = "") -> None:
        """Load a serialized model.

        Raises InputError if the device can't be used, ValueError for a model with preprocessing, and the exceptions of ONNX
        Runtime, which have no common base but Exception.
        """
        self.preprocess, self.digest = preprocess, digest
        self.device, provider = select_provider(device, onnxruntime.get_available_providers())
        self._session = open_session(model, provider)
        if self._session.get_providers()[0] != provider[0]:  # ONNX Runtime falls back to the CPU with a warning only.
            raise InputError(
                f"device {device!r}: ONNX Runtime {onnxruntime.__version__} can't use the GPU; check its CUDA and cuDNN"
                " libraries, or use device cpu"
            )
        (image,) = self._session.get_inputs()
        if image.type != "tensor(float)":
            raise ValueError("it contains the preprocessing")

    @classmethod
    def load(cls, file: OnnxFile, preprocess: Preprocess, device: str = "auto") -> OnnxBackend:
        """Load an ONNX file. Raises CheckpointError, and InputError for a device that can't be used."""
        try:
            return cls(file.data, preprocess, device, file.digest)
        except InputError:
            raise
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
            raise CheckpointError(
                f"{file.path}: ONNX Runtime {onnxruntime.__version__} can't run it ({reason}); run export --onnx again"
            ) from None

    def forward(self, batch: ImageBatch) -> list[npt.NDArray[np.float32]]:
        """Return the logits (K, h, w) float32 of each image of a batch (N, h, w, 3) uint8 RGB of any h and w."""
        height, width = batch.shape[1:3]
        outputs = [self._session.run(None, {"image": x})[0] for x in network_inputs(batch, self.preprocess)]
        return [logits[0, :, :height, :width] for logits in outputs]


def select_provider(device: str, available: Sequence[str]) -> tuple[str, Provider]:
    """Return the name of a device and the execution provider for it; `auto` is the CPU.

    Args:
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        available: Names of the execution providers that the installed ONNX Runtime has.

    Raises:
        InputError: The device is unknown, or there is no provider for it.
    """
    if device in ("auto", "cpu"):
        return "cpu", (CPU_PROVIDER, {})
    kind, _, index = device.partition(":")
    if kind != "cuda" or not (index.isdecimal() or device == "cuda"):
        raise InputError(f"device {device!r} is not available for the backend {ONNX}; expected auto, cpu, cuda or cuda:N")
    if CUDA_PROVIDER not in available:
        raise InputError(
            f"device {device!r}: the installed ONNX Runtime runs on a CPU only; use device cpu, or replace the package:"
            " pip uninstall onnxruntime && pip install onnxruntime-gpu"
        )
    return f"cuda:{index or 0}", (CUDA_PROVIDER, {**CUDA_OPTIONS, "device_id": index or "0"})


def open_session(model: bytes, provider: Provider = (CPU_PROVIDER, {})) -> Any:
    """Return a session of ONNX Runtime for a serialized model; it can be used by several threads at once."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = ERRORS_ONLY
    options.use_deterministic_compute = True
    options.intra_op_num_threads, options.inter_op_num_threads = INFERENCE_THREADS, 1
    # Threads that spin while they wait take the CPU from the threads that they wait for, if others use the CPUs as well.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model, options, providers=[provider])
