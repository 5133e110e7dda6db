"""The PyTorch backend on a GPU: images are transferred as bytes, and label maps (or the logits of tiles) come back."""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from itertools import cycle

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.backends.base import COMPILED, FP16, TORCH, Backend, ImageBatch, Logits
from core.backends.fp16 import convert_to_fp16, pink_noise_images, pixel_agreement
from core.backends.torch_cpu import deterministic_inference
from core.errors import InputError
from core.images.resize import Preprocess, Size

log = logging.getLogger("core")
NUM_STREAMS = 4  # images that run side by side, each on its own CUDA stream
MIN_PIXEL_AGREEMENT = 0.999  # fraction of pixels; below it half precision does not keep the mask
MAX_BAND_ELEMENTS = 1 << 25  # upsampled logits that are in memory at once: 128 MB
WARMUP_RUNS = 3  # of a compiled network, which is compiled in the first run and captured as a CUDA graph in the second
# torch.compile by default gives up after 8 shapes of a network and 256 of a process. The setting is local to a thread.
_MANY_SHAPES = partial(torch._dynamo.config.patch, recompile_limit=256, accumulated_recompile_limit=4096)
# The CUDA graphs of torch.compile belong to the thread that captured them and share their memory, so one thread launches
# those of all networks of the process.
_GRAPH_THREAD = ThreadPoolExecutor(1, "cuda-graphs")


class GpuBackend(Backend):
    """Runs a network channels-last, on a GPU several images side by side.

    Each image runs alone, on one of several streams. In a batch, the kernels that are selected for its size would give
    other last bits. (So would those that are selected if the GPU has no memory left for the first choice.)

    `name` specifies how the network runs; the network is changed accordingly. With FP16, all convolutions but the last
    have half precision. With COMPILED, torch.compile generates the kernels, and on a GPU launches those of an image as
    one CUDA graph, on a single stream. All of it also runs on a CPU, for tests.
    """

    def __init__(
        self,
        network: nn.Module,
        preprocess: Preprocess,
        device: torch.device,
        digest: str = "",
        name: str = TORCH,
        num_streams: int = NUM_STREAMS,
    ) -> None:
        self.preprocess, self.device, self.digest, self.name = preprocess, str(device), digest, name
        self._cuda, self._half, self._compiled = device.type == "cuda", FP16 in name, COMPILED in name
        self._graphs = self._cuda and self._compiled
        self.network = network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self._half:
            convert_to_fp16(self.network)
        self._call: Callable[[Tensor], Tensor] = self.network
        if self._compiled:
            # Compiled again for each shape: a kernel for all shapes would depend on which of them came first.
            mode = "reduce-overhead" if self._graphs else "default"
            self._call = torch.compile(self.network, dynamic=False, fullgraph=True, mode=mode)
        self._scale, self._shift = (torch.from_numpy(factor).to(device)[:, None, None] for factor in preprocess.scale_and_shift)
        # A graph has one input buffer, so its runs can't overlap: one stream. None is the current stream.
        self.batch_size = 1 if self._graphs else num_streams
        self._streams: list[torch.cuda.Stream | None] = [None]
        if self._cuda and num_streams > 1:
            self._streams = [torch.cuda.Stream(device) for _ in range(self.batch_size)]  # type: ignore[no-untyped-call]
        self._lock = threading.Lock()
        if self._cuda:
            torch.cuda.synchronize(device)  # The weights were copied on another stream than those that read them.

    def forward(self, batch: ImageBatch) -> list[Tensor]:
        """Return the logits (K, h, w) float32, on the device, of each image of a batch (N, h, w, 3) uint8 RGB.

        The logits are complete on return, unless `num_streams` is 1: then they are computed on the current stream.
        """
        images = torch.from_numpy(np.ascontiguousarray(batch))
        if self._cuda:
            images = images.pin_memory()
        with self._lock:
            logits = _GRAPH_THREAD.submit(self._launch, images).result() if self._graphs else self._launch(images)
            for stream in self._streams:
                if stream is not None:
                    stream.synchronize()
        return logits

    @torch.inference_mode()
    def _launch(self, images: Tensor) -> list[Tensor]:
        """Start all images (N, h, w, 3) uint8 and return the tensors that their logits are written to."""
        logits = []
        with deterministic_inference(), _MANY_SHAPES() if self._compiled else nullcontext():
            for stream, image in zip(cycle(self._streams), images, strict=False):
                with torch.cuda.stream(stream) if stream is not None else nullcontext():
                    logits.append(self._run(image.to(self.device, non_blocking=True)))
        return logits

    def _run(self, image: Tensor) -> Tensor:
        """Return the logits (K, h, w) float32 of an image (h, w, 3) uint8, both on the device."""
        x = image.permute(2, 0, 1)[None] * self._scale - self._shift  # already channels-last
        logits = self._call(x.half() if self._half else x)[0]
        # A copy in any case: the next run of a CUDA graph overwrites its output.
        return logits.to(torch.float32, copy=True, memory_format=torch.contiguous_format)

    @torch.inference_mode()
    def average_hflip(self, logits: Logits, flipped: Logits) -> Logits:
        """Return the mean of the logits (K, h, w) of an image and those of the horizontally flipped image, flipped back."""
        for tensor in (logits, flipped):
            if tensor.is_cuda:
                # `forward` waited for both, so reading them on the current stream is safe. But their memory belongs to
                # the streams that wrote it: freed before this kernel has run, it would go to the next image on those
                # streams, which would overwrite it. `record_stream` makes the allocator wait for the current stream.
                tensor.record_stream(torch.cuda.current_stream(tensor.device))
        return 0.5 * (logits + flipped.to(logits.device).flip(-1))

    @torch.inference_mode()
    def upsample_argmax(self, logits: Logits, size: Size) -> npt.NDArray[np.uint8]:
        """Return the class indices (H, W) uint8 of logits (K, h, w) that are upsampled on their device, by bands of rows."""
        if isinstance(logits, np.ndarray):  # blended from tiles, on the host
            return super().upsample_argmax(logits, size)
        labels = torch.empty(size, dtype=torch.uint8, pin_memory=self._cuda)
        rows = max(1, MAX_BAND_ELEMENTS // (len(logits) * size[1]))
        for top in range(0, size[0], rows):
            labels[top : top + rows] = upsample_rows(logits, size, top, min(rows, size[0] - top)).argmax(0).to(torch.uint8)
        # Page-locked memory is scarce: the caller may keep the result, so it gets a copy in ordinary memory.
        return labels.numpy().copy() if self._cuda else labels.numpy()


def load_torch_cuda(network: nn.Module, preprocess: Preprocess, device: torch.device, digest: str, name: str) -> GpuBackend:
    """Return the backend `name` for a network in evaluation mode; `auto` is half precision if that keeps the mask.

    Raises InputError if the device can't run the network in the way that the name specifies.
    """
    if name == "auto":
        full = GpuBackend(copy.deepcopy(network), preprocess, device, digest)
        half = GpuBackend(network, preprocess, device, digest, TORCH + FP16)
        agreement = pixel_agreement(half, full)
        if agreement >= MIN_PIXEL_AGREEMENT:
            return half
        log.warning(
            "using fp32: half precision keeps only %.2f %% of the mask (select it by name: %s)", 100 * agreement, half.name
        )
        return full
    backend = GpuBackend(network, preprocess, device, digest, name)
    if COMPILED in name:
        try:
            backend.forward(pink_noise_images(preprocess.size, WARMUP_RUNS))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise InputError(
                f"{name} can't run here ({reason}); use {TORCH} or {TORCH + FP16}, or install what is missing"
            ) from error
    return backend


def upsample_rows(logits: Tensor, size: Size, top: int, rows: int) -> Tensor:
    """Return `rows` rows from `top` on, (K, rows, W), of logits (K, h, w) upsampled bilinearly to `size`.

    Pixel centers are at half coordinates.
    """
    height = logits.shape[1]
    position = (torch.arange(top, top + rows, dtype=torch.float64) + 0.5) * (height / size[0]) - 0.5
    position = position.clamp(0, height - 1)
    low = position.long()
    weight = (position - low).float().to(logits.device)[:, None]
    low, high = (index.to(logits.device) for index in (low, (low + 1).clamp(max=height - 1)))
    interpolated = torch.lerp(logits[:, low], logits[:, high], weight)
    return F.interpolate(interpolated[None], (rows, size[1]), mode="bilinear", align_corners=False)[0]
