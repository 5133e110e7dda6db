"""Back ends: what runs a checkpoint's network; chosen by one function and imported only when chosen."""

from __future__ import annotations

import ctypes
import logging
import sys
from abc import ABC, abstractmethod
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt

from core.checkpoints.checkpoint import Checkpoint
from core.checkpoints.exported import PRECISIONS, Artefact, beside, read_artefact
from core.errors import CheckpointError, InputError
from core.images.resize import Preprocess, Size
from core.inference.upsample import label_map

log = logging.getLogger("core")
# OpenVINO and NNCF tell their makers that they are used, from their import on, without being asked to; they do without
# where this package is not there. Here, because this file is imported before either of them.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

TORCH, OPENVINO = "torch", "openvino-"
FP16, GRAPHS, COMPILED = "-fp16", "-graphs", "-compiled"  # how torch runs: half precision, CUDA graphs, torch.compile
BACKENDS = (
    *(TORCH + half + launched for launched in ("", GRAPHS, COMPILED) for half in ("", FP16)),
    *(OPENVINO + precision for precision in PRECISIONS),
)


Pictures = npt.NDArray[np.uint8]  # (N, h, w, 3) RGB
Logits = Any  # (K, h, w) float32 of one picture, where the back end keeps them: an array, or a tensor on a device


class Backend(ABC):
    """A network ready to run. `name` says which back end, `device` where, `digest` which artefact, for replies and reports.

    `batch` is the number of pictures that it gains by running together. A picture gets the same bits whatever it is
    batched with, and from any thread.
    """

    name: str
    device: str
    digest: str
    preprocess: Preprocess
    batch = 1

    @abstractmethod
    def forward(self, batch: Pictures) -> list[Logits]:
        """Pictures (N, h, w, 3) uint8 RGB of the network's size to the logits of each, (K, h, w) float32."""

    def label(self, logits: Logits, size: Size) -> npt.NDArray[np.uint8]:
        """Logits (K, h, w) to class indices (H, W) uint8: enlarged bilinearly, then argmax."""
        return label_map(self.host(logits), size)

    def with_mirrored(self, logits: Logits, mirrored: Logits) -> Logits:
        """The mean of logits (K, h, w) and of those of the mirror image, turned back."""
        mean: npt.NDArray[np.float32] = np.float32(0.5) * (self.host(logits) + self.host(mirrored)[..., ::-1])
        return mean

    def host(self, logits: Logits) -> npt.NDArray[np.float32]:
        """Logits (K, h, w), those of another back end as well, as an array."""
        array: npt.NDArray[np.float32] = logits if isinstance(logits, np.ndarray) else logits.cpu().numpy()
        return array


def open_backend(checkpoint: Checkpoint, device: str = "auto", backend: str = "auto") -> Backend:
    """The back end for a checkpoint: predict, evaluate, compare and the service all choose here.

    `device` is `auto` (the first GPU where there is one), `cpu`, `cuda` or `cuda:N`. Raises InputError for a name or
    a device that is not there and CheckpointError where the weights do not fit the architecture, or an artefact its
    checkpoint.
    """
    artefact = _choose(checkpoint, device, backend)
    if artefact:
        try:
            from core.backends import openvino

            return openvino.OpenVinoBackend.load(artefact, checkpoint.card.preprocess, device)
        except (CheckpointError, ImportError) as error:
            if backend != "auto":
                raise
            log.warning("not used: %s", error)
    _require_torch(checkpoint)
    from core.backends import torch_cpu

    return torch_cpu.open_torch(checkpoint, device, backend if backend.startswith(TORCH) else "auto")


def check_weights(checkpoint: Checkpoint) -> None:
    """Raise CheckpointError where the weights do not fit their architecture, as far as that is known without importing torch:
    where no other model runs on it, it is noticed as this one is opened."""
    if "torch" in sys.modules:
        from core.backends import torch_cpu

        torch_cpu.check_weights(checkpoint)


def choose_backend(checkpoint: Checkpoint, device: str = "auto", backend: str = "auto") -> tuple[str, str]:
    """The name of the back end that `open_backend` opens, and the digest of what it runs. Raises as that does.

    The name is empty where it takes a GPU to tell: whether half precision keeps the mask is seen there.
    """
    artefact = _choose(checkpoint, device, backend)
    if artefact:
        return OPENVINO + artefact.card.precision, artefact.digest
    _require_torch(checkpoint)
    if backend == "auto":
        return TORCH if _on_cpu(device) else "", checkpoint.digest
    return backend, checkpoint.digest


def _choose(checkpoint: Checkpoint, device: str, backend: str) -> Artefact | None:
    """The artefact that answers for a checkpoint, None where torch does.

    `auto` on a CPU is the artefact beside the checkpoint, int8 before fp32; torch otherwise. An artefact that can't be
    used is left out, and the log says why: the checkpoint itself gives such masks, too, slower.
    """
    if backend not in ("auto", *BACKENDS):
        raise InputError(f"unknown back end {backend!r}; known: auto, {', '.join(BACKENDS)}")
    if backend.startswith(OPENVINO):
        return read_artefact(beside(checkpoint.path, backend.removeprefix(OPENVINO)), checkpoint.digest)
    if backend == "auto" and _on_cpu(device):
        for precision in PRECISIONS:
            folder = beside(checkpoint.path, precision)
            try:
                if folder.is_dir():
                    return read_artefact(folder, checkpoint.digest)
            except CheckpointError as error:
                log.warning("not used: %s", error)
    return None


def _require_torch(checkpoint: Checkpoint) -> None:
    """Raise CheckpointError where torch, which takes seconds to import, is not there to be."""
    if find_spec("torch") is None:
        raise CheckpointError(
            f"{checkpoint.path}: there is no artefact beside it that can be used, and torch, which does without, is not"
            f" installed here; where it is, make one: python -m training export {checkpoint.path} --fp32"
        )


def _on_cpu(device: str) -> bool:
    return device == "cpu" or (device == "auto" and not gpus())


@cache
def gpus() -> int:
    """How many GPUs there are for torch, which is imported only where NVIDIA's driver shows some."""
    count = ctypes.c_int(0)
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        shown = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
    except OSError:
        return 0
    if not shown or not count.value:
        return 0
    try:
        from core.backends import torch_cpu
    except ImportError as error:
        if error.name != "torch":
            raise
        log.warning("there is a GPU, and torch, which would use it, is not installed: the CPU answers")
        return 0
    return torch_cpu.device_count()
