"""The PyTorch backend on a CPU, and the choice of the device and of the PyTorch backend."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from core.backends.base import TORCH, Backend, ImageBatch
from core.backends.torch_weights import load_network
from core.checkpoints.checkpoint import Checkpoint
from core.errors import InputError
from core.images.resize import Preprocess
from core.runtime.cpu import INFERENCE_THREADS
from core.runtime.malloc import tune_malloc

TRIM_THRESHOLD = 256 << 20  # bytes of freed memory that the process keeps between two images


class TorchBackend(Backend):
    """Runs a network on a CPU in fp32, channels-last.

    The kernels that torch selects, and so the last bits of the result, depend on the batch size and on the number of
    threads. So each image runs alone, with a number of threads that depends on the CPU only and on no environment
    variable.
    """

    name, device = TORCH, "cpu"

    def __init__(self, network: nn.Module, preprocess: Preprocess, digest: str = "") -> None:
        self.preprocess, self.digest = preprocess, digest
        self.network = network.to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def forward(self, batch: ImageBatch) -> list[npt.NDArray[np.float32]]:
        """Return the logits (K, h, w) float32 of each image of a batch (N, h, w, 3) uint8 RGB."""
        with deterministic_inference():
            inputs = (torch.from_numpy(self.preprocess.normalize(rgb))[None] for rgb in batch)
            outputs = [self.network(x.contiguous(memory_format=torch.channels_last))[0] for x in inputs]
        return [logits.float().contiguous().numpy() for logits in outputs]


def load_torch(checkpoint: Checkpoint, device: str = "auto", name: str = "auto") -> Backend:
    """Load a checkpoint into a PyTorch backend.

    Args:
        checkpoint: The weights, their architecture and their preprocessing.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        name: A name in BACKENDS that begins with TORCH, or `auto`: fp32 on a CPU; on a GPU half precision if it keeps
            the masks.

    Raises:
        InputError: The device is not available, or can't run the network in the way that `name` specifies.
        CheckpointError: The weights do not fit the architecture.
    """
    network, preprocess = load_network(checkpoint), checkpoint.metadata.preprocess
    chosen = resolve_device(device)
    if chosen.type == "cpu":
        tune_malloc(TRIM_THRESHOLD)
    if chosen.type == "cpu" and name in ("auto", TORCH):
        return TorchBackend(network, preprocess, checkpoint.digest)
    from core.backends.torch_cuda import load_torch_cuda

    return load_torch_cuda(network, preprocess, chosen, checkpoint.digest, name)


def backend_from_network(network: nn.Module, preprocess: Preprocess, device: torch.device) -> Backend:
    """Return a backend in fp32 for a network that is already in memory, as during training."""
    if device.type == "cpu":
        return TorchBackend(network, preprocess)
    from core.backends.torch_cuda import GpuBackend

    # One stream, the one that training uses: the allocator can't give memory that is cached for it to other streams.
    return GpuBackend(network, preprocess, device, num_streams=1)


@contextmanager
def deterministic_inference() -> Iterator[None]:
    """Run the body with INFERENCE_THREADS threads and with cuDNN kernels that give the same bits at every run.

    To OpenMP the number of threads is a property of the calling thread, so it is set at every call.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(INFERENCE_THREADS)
    try:
        with _DETERMINISTIC_CUDNN:
            yield
    finally:
        torch.set_num_threads(before)


class _DeterministicCudnn:
    """Makes cuDNN deterministic while at least one thread is inside the context.

    The flags of cuDNN belong to the process: the first thread that enters sets them, the last that leaves restores them.
    """

    def __init__(self) -> None:
        self._lock, self._active, self._flags = threading.Lock(), 0, ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if not self._active:
                flags = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
                self._flags.enter_context(flags)
            self._active += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._active -= 1
            if not self._active:
                self._flags.close()


_DETERMINISTIC_CUDNN = _DeterministicCudnn()


def device_count() -> int:
    """Return the number of GPUs that the installed torch can use."""
    return torch.cuda.device_count()


def resolve_device(device: str = "auto") -> torch.device:
    """Return the device for `auto`, `cpu`, `cuda` or `cuda:N`. Raises InputError if it is not available."""
    if device == "auto":
        return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    count = torch.cuda.device_count()
    try:
        chosen = torch.device(device)
        available = (chosen.type == "cpu" and not chosen.index) or (chosen.type == "cuda" and (chosen.index or 0) < count)
    except RuntimeError:
        available = False
    if not available:
        names = ", ".join(["auto", "cpu", *(f"cuda:{n}" for n in range(count))])
        raise InputError(f"device {device!r} is not available; expected one of: {names}")
    return chosen
