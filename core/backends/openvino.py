"""The OpenVINO backend: exported models on a CPU, in fp32 or int8, without torch."""

from __future__ import annotations

import threading
from functools import cache

import numpy as np
import numpy.typing as npt
import openvino

from core.backends.base import OPENVINO, Backend, ImageBatch, network_inputs
from core.checkpoints.exported import BIN_FILE, XML_FILE, ExportedModel
from core.errors import CheckpointError, InputError
from core.images.resize import Preprocess
from core.runtime.cpu import INFERENCE_THREADS

OPTIONS = {
    "PERFORMANCE_HINT": "LATENCY",
    "INFERENCE_NUM_THREADS": INFERENCE_THREADS,
    # What is not int8 runs in fp32: on CPUs with bf16 units the default would round logits and change masks.
    "INFERENCE_PRECISION_HINT": "f32",
    # Kernels of each kind that stay prepared for the input sizes they were used with. The default, 5,000, would keep some 5 MB
    # for every size that ever occurred; 64 keep those of the last 16 sizes or more. Results do not depend on it.
    "CPU_RUNTIME_CACHE_CAPACITY": 64,
}


class OpenVinoBackend(Backend):
    """Runs an OpenVINO network, each image alone."""

    device = "cpu"

    def __init__(
        self, network: openvino.Model | openvino.CompiledModel, preprocess: Preprocess, name: str, digest: str = ""
    ) -> None:
        self.name, self.digest, self.preprocess = name, digest, preprocess
        compiled = isinstance(network, openvino.CompiledModel)
        self._compiled = network if compiled else _core().compile_model(network, "CPU", OPTIONS)
        self._thread_local = threading.local()  # An infer request owns the buffers of one run: one request per thread.

    @classmethod
    def load(cls, exported: ExportedModel, preprocess: Preprocess, device: str = "auto") -> OpenVinoBackend:
        """Load an exported model. Raises CheckpointError, and InputError for a device other than the CPU."""
        name = OPENVINO + exported.manifest.precision
        if device not in ("auto", "cpu"):
            raise InputError(f"{name} runs on a CPU, not on {device!r}; expected device cpu or auto, or backend torch")
        try:
            network = _core().read_model(exported.files[XML_FILE], exported.files[BIN_FILE])
            return cls(network, preprocess, name, exported.digest)
        except RuntimeError as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
            raise CheckpointError(
                f"{exported.directory}: OpenVINO {openvino.__version__} can't run it ({reason}); export it again"
            ) from None

    def forward(self, batch: ImageBatch) -> list[npt.NDArray[np.float32]]:
        """Return the logits (K, h, w) float32 of each image of a batch (N, h, w, 3) uint8 RGB of any h and w."""
        height, width = batch.shape[1:3]
        request = self._request()
        # `infer` copies the outputs, so the next run does not overwrite them.
        outputs = [request.infer([x], share_inputs=True)[0] for x in network_inputs(batch, self.preprocess)]
        return [logits[0, :, :height, :width] for logits in outputs]

    def _request(self) -> openvino.InferRequest:
        if not hasattr(self._thread_local, "request"):
            self._thread_local.request = self._compiled.create_infer_request()
        request: openvino.InferRequest = self._thread_local.request
        return request


@cache
def _core() -> openvino.Core:
    return openvino.Core()
