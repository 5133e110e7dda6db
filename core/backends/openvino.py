"""The OpenVINO back end: exported networks on a CPU, in fp32 or int8, without torch."""

from __future__ import annotations

import threading
from functools import cache

import numpy as np
import numpy.typing as npt
import openvino

from core.backends import Backend, Pictures
from core.checkpoints.exported import NETWORK, WEIGHTS, Artefact
from core.errors import CheckpointError, InputError
from core.images.resize import Preprocess
from core.runtime.cpu import CPU_THREADS

OPTIONS = {
    "PERFORMANCE_HINT": "LATENCY",
    "INFERENCE_NUM_THREADS": CPU_THREADS,
    # what is not int8 runs in fp32: on CPUs with bf16 units the default would round masks
    "INFERENCE_PRECISION_HINT": "f32",
}


class OpenVinoBackend(Backend):
    """Runs a compiled network, each picture alone, normalised as in training."""

    device = "cpu"

    def __init__(
        self, network: openvino.Model | openvino.CompiledModel, preprocess: Preprocess, name: str, digest: str = ""
    ) -> None:
        self.name, self.digest, self.preprocess = name, digest, preprocess
        compiled = isinstance(network, openvino.CompiledModel)
        self._compiled = network if compiled else _core().compile_model(network, "CPU", OPTIONS)
        self._own = threading.local()  # a request holds the buffers of one run

    @classmethod
    def load(cls, artefact: Artefact, preprocess: Preprocess, device: str = "auto") -> OpenVinoBackend:
        """Open an artefact. Raises CheckpointError, and InputError for another device than the CPU."""
        precision = artefact.card.precision
        if device not in ("auto", "cpu"):
            raise InputError(
                f"openvino-{precision} runs on a CPU, not on {device!r}; expected cpu or auto, or the torch back end"
            )
        try:
            network = _core().read_model(artefact.files[NETWORK], artefact.files[WEIGHTS])
            return cls(network, preprocess, f"openvino-{precision}", artefact.digest)
        except RuntimeError as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
            raise CheckpointError(f"{artefact.folder}: OpenVINO {openvino.__version__} can't run it ({reason})") from None

    def forward(self, batch: Pictures) -> list[npt.NDArray[np.float32]]:
        """Pictures (N, h, w, 3) uint8 RGB, any h and w, to the logits (K, h, w) float32 of each."""
        height, width = batch.shape[1:3]
        below, right = -height % self.preprocess.stride, -width % self.preprocess.stride
        if below or right:  # as the networks do in training
            batch = np.pad(batch, ((0, 0), (0, below), (0, right), (0, 0)), "edge")
        request, inputs = self._request(), map(self.preprocess.normalise, batch)
        logits = [request.infer([x[None]], share_inputs=True)[0] for x in inputs]  # copied out: the next run writes there
        return [each[0, :, :height, :width] for each in logits]

    def _request(self) -> openvino.InferRequest:
        if not hasattr(self._own, "request"):
            self._own.request = self._compiled.create_infer_request()
        request: openvino.InferRequest = self._own.request
        return request


@cache
def _core() -> openvino.Core:
    return openvino.Core()
