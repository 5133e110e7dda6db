"""The OpenVINO back end: exported networks on a CPU, in fp32 or int8, without torch."""

from __future__ import annotations

import threading
from functools import cache

import numpy as np
import numpy.typing as npt
import openvino

from core.artefact import NETWORK, WEIGHTS, Artefact
from core.errors import CheckpointError, InputError
from core.threads import CPU_THREADS

OPTIONS = {
    "PERFORMANCE_HINT": "LATENCY",
    "INFERENCE_NUM_THREADS": CPU_THREADS,
    # what is not int8 runs in fp32: on CPUs with bf16 units the default would round masks
    "INFERENCE_PRECISION_HINT": "f32",
}


class OpenVinoBackend:
    """Runs a compiled network, each picture alone: the same bits whatever it is batched with, and from any thread."""

    device = "cpu"
    batch = 1

    def __init__(self, network: openvino.Model | openvino.CompiledModel, name: str, digest: str = "", stride: int = 1) -> None:
        self.name, self.digest, self.stride = name, digest, stride
        compiled = isinstance(network, openvino.CompiledModel)
        self._compiled = network if compiled else _core().compile_model(network, "CPU", OPTIONS)
        self._own = threading.local()  # a request holds the buffers of one run

    @classmethod
    def load(cls, artefact: Artefact, stride: int, device: str = "auto") -> OpenVinoBackend:
        """Open an artefact. Raises CheckpointError, and InputError for another device than the CPU."""
        precision = artefact.card.precision
        if device not in ("auto", "cpu"):
            raise InputError(
                f"openvino-{precision} runs on a CPU, not on {device!r}; expected cpu or auto, or the torch back end"
            )
        try:
            network = _core().read_model(artefact.files[NETWORK], artefact.files[WEIGHTS])
            return cls(network, f"openvino-{precision}", artefact.digest, stride)
        except RuntimeError as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
            raise CheckpointError(f"{artefact.folder}: OpenVINO {openvino.__version__} can't run it ({reason})") from None

    def forward(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Network input (N, 3, H, W), any H and W, to logits (N, K, H, W), both float32."""
        height, width = batch.shape[2:]
        below, right = -height % self.stride, -width % self.stride
        if below or right:  # as the networks do in training
            batch = np.pad(batch, ((0, 0), (0, 0), (0, below), (0, right)), "edge")
        request = self._request()
        logits = [request.infer([x[None]], share_inputs=True)[0] for x in batch]  # copied out: the next run writes there
        return np.concatenate(logits)[..., :height, :width]

    def _request(self) -> openvino.InferRequest:
        if not hasattr(self._own, "request"):
            self._own.request = self._compiled.create_infer_request()
        request: openvino.InferRequest = self._own.request
        return request


@cache
def _core() -> openvino.Core:
    return openvino.Core()
