"""The PyTorch back end on a GPU: photographs go there as bytes and come back as label maps (tiles as logits)."""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from itertools import cycle

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.backends import COMPILED, FP16, GRAPHS, TORCH, Backend, Logits, Pictures
from core.backends.fp16 import agreement, halve, like_photographs
from core.backends.streams import Lane
from core.backends.torch_cpu import exact
from core.errors import InputError
from core.images.resize import Preprocess, Size

log = logging.getLogger("core")
LANES = 4  # pictures that run side by side, each on a stream of its own
AGREEMENT = 0.999  # of the pixels: below it, half precision does not keep the mask
BAND = 1 << 25  # enlarged logits that are there at once, 128 MB
# of torch.compile, whose defaults are 8 for a network and 256 for a process; such settings hold for one thread only
_MANY_SHAPES = partial(torch._dynamo.config.patch, recompile_limit=256, accumulated_recompile_limit=4096)


class GpuBackend(Backend):
    """Runs a network channels-last, several pictures side by side.

    Each picture goes through alone, on a stream of its own: in a batch, the kernels that are picked for its size would
    give other last bits. (So would those that are picked where a GPU has no memory left for the first choice.)
    `name` says how it runs: with FP16, convolutions but the last are in half precision; with GRAPHS, the kernels of a
    picture are launched as one CUDA graph; with COMPILED, torch.compile makes them, and on a GPU a graph of them, too.
    The network is changed accordingly. On a CPU all but GRAPHS runs as well.
    """

    def __init__(
        self,
        network: nn.Module,
        preprocess: Preprocess,
        device: torch.device,
        digest: str = "",
        name: str = TORCH,
        lanes: int = LANES,
    ) -> None:
        self.preprocess, self.device, self.digest, self.name = preprocess, str(device), digest, name
        self.batch, self._half, self._compiled = lanes, FP16 in name, COMPILED in name
        self.network = network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self._half:
            halve(self.network)
        self._call: Callable[[Tensor], Tensor] = self.network
        if self._compiled:  # anew for each shape: what is made for all shapes depends on which of them came first
            self._call = torch.compile(self.network, dynamic=False, fullgraph=True)
        self._scale, self._shift = (torch.from_numpy(factor).to(device)[:, None, None] for factor in preprocess.factors)
        self._cuda = device.type == "cuda"
        captured = self._cuda and (GRAPHS in name or COMPILED in name)
        self._lanes = [Lane(device, self._cuda and lanes > 1, captured) for _ in range(lanes)]
        self._lock = threading.Lock()
        if self._cuda:
            torch.cuda.synchronize(device)  # weights come on another stream than the lanes'

    @torch.inference_mode()
    def forward(self, batch: Pictures) -> list[Tensor]:
        """Pictures (N, h, w, 3) uint8 RGB to the logits (K, h, w) float32 of each, on the device."""
        pictures = torch.from_numpy(np.ascontiguousarray(batch))
        if self._cuda:
            pictures = pictures.pin_memory()
        with self._lock, exact(), _MANY_SHAPES() if self._compiled else nullcontext():
            found = [lane.begin(self._run, picture) for lane, picture in zip(cycle(self._lanes), pictures, strict=False)]
            for lane in self._lanes:
                lane.finish()
        return found

    def _run(self, picture: Tensor) -> Tensor:
        """(h, w, 3) uint8 to (K, h, w) float32, both on the device."""
        x = picture.permute(2, 0, 1)[None] * self._scale - self._shift  # channels-last as it is
        logits = self._call(x.half() if self._half else x)
        return logits[0].float().contiguous()

    @torch.inference_mode()
    def with_mirrored(self, logits: Logits, mirrored: Logits) -> Logits:
        """The mean of logits (K, h, w) and of those of the mirror image, turned back."""
        return 0.5 * (logits + mirrored.to(logits.device).flip(-1))

    @torch.inference_mode()
    def label(self, logits: Logits, size: Size) -> npt.NDArray[np.uint8]:
        """Logits (K, h, w) to class indices (H, W) uint8, enlarged where they are, a band of rows at a time."""
        if isinstance(logits, np.ndarray):  # of tiles, put together here
            return super().label(logits, size)
        labels = torch.empty(size, dtype=torch.uint8, pin_memory=self._cuda)
        rows = max(1, BAND // (len(logits) * size[1]))
        for top in range(0, size[0], rows):
            labels[top : top + rows] = enlarged(logits, size, top, min(rows, size[0] - top)).argmax(0).to(torch.uint8)
        return labels.numpy()


def open_gpu(network: nn.Module, preprocess: Preprocess, device: torch.device, digest: str, name: str) -> GpuBackend:
    """A network in evaluation on a device, ready to run; `auto` is half precision where that keeps the mask.

    Raises InputError where it can't run in the way that the name says.
    """
    if GRAPHS in name and device.type != "cuda":
        raise InputError(f"{name}: CUDA graphs need a GPU, and not {device}; expected a name without {GRAPHS}")
    if name == "auto":
        full = GpuBackend(copy.deepcopy(network), preprocess, device, digest)
        half = GpuBackend(network, preprocess, device, digest, TORCH + FP16)
        same = agreement(half, full)
        if same >= AGREEMENT:
            return half
        log.warning(
            "fp32, since half precision keeps %.2f %% of the mask only (%s wants it all the same)", 100 * same, half.name
        )
        return full
    backend = GpuBackend(network, preprocess, device, digest, name)
    if COMPILED in name or GRAPHS in name:
        try:
            backend.forward(like_photographs(preprocess.size, backend.batch))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise InputError(f"{name} can't run here ({reason}); expected {TORCH}, {TORCH + FP16} or what it lacks") from error
    return backend


def enlarged(logits: Tensor, size: Size, top: int, rows: int) -> Tensor:
    """Some rows (K, rows, W) of logits (K, h, w) enlarged to a size bilinearly, with half-pixel centres."""
    height = logits.shape[1]
    position = (torch.arange(top, top + rows, dtype=torch.float64) + 0.5) * (height / size[0]) - 0.5
    position = position.clamp(0, height - 1)
    low = position.long()
    weight = (position - low).float().to(logits.device)[:, None]
    low, high = (each.to(logits.device) for each in (low, (low + 1).clamp(max=height - 1)))
    between = torch.lerp(logits[:, low], logits[:, high], weight)
    return F.interpolate(between[None], (rows, size[1]), mode="bilinear", align_corners=False)[0]
