"""The PyTorch back end, CPU and CUDA, and what needs torch beside it: counting on a device, tensors in checkpoints."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from contextlib import ExitStack, contextmanager

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from core.backends import TORCH, Backend, Pictures
from core.checkpoints.checkpoint import Checkpoint
from core.checkpoints.safetensors_io import Tensors
from core.data.labels import VOID
from core.errors import CheckpointError, InputError
from core.images.resize import Preprocess
from core.models import MODELS, build_model
from core.runtime.cpu import CPU_THREADS
from core.runtime.malloc import keep_freed_memory

KEPT = 256 << 20  # bytes that stay with the process between two pictures


class TorchBackend(Backend):
    """Runs a network on a CPU in fp32, channels-last.

    The kernels that torch picks (and so the last bits) depend on the batch size and on the number of threads. So each
    picture goes through alone, with a number of threads that the machine gives and no environment changes.
    """

    name, device = TORCH, "cpu"

    def __init__(self, network: nn.Module, preprocess: Preprocess, digest: str = "") -> None:
        self.preprocess, self.digest = preprocess, digest
        self.network = network.to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def forward(self, batch: Pictures) -> list[npt.NDArray[np.float32]]:
        """Pictures (N, h, w, 3) uint8 RGB to the logits (K, h, w) float32 of each."""
        with exact():
            inputs = (torch.from_numpy(self.preprocess.normalise(rgb))[None] for rgb in batch)
            logits = [self.network(x.contiguous(memory_format=torch.channels_last))[0] for x in inputs]
        return [each.float().contiguous().numpy() for each in logits]


def in_memory(network: nn.Module, preprocess: Preprocess, device: torch.device) -> Backend:
    """A network that is in memory already, as in training, on a device, in fp32."""
    if device.type == "cpu":
        return TorchBackend(network, preprocess)
    from core.backends.torch_cuda import GpuBackend

    # on the stream that training uses, whose memory no other stream could take
    return GpuBackend(network, preprocess, device, lanes=1)


def open_torch(checkpoint: Checkpoint, device: str = "auto", name: str = "auto") -> Backend:
    """A checkpoint's network in evaluation, on a device and in the way that a back end's name says.

    Raises InputError for a device that is not there, or that can't run it so, and CheckpointError.
    """
    check_weights(checkpoint)  # first: the card may promise a network that there is no memory for
    network = _build(checkpoint).eval()
    load_state(network, checkpoint)
    chosen, preprocess = choose_device(device), checkpoint.card.preprocess
    if chosen.type == "cpu":
        keep_freed_memory(KEPT)
    if chosen.type == "cpu" and name in ("auto", TORCH):
        return TorchBackend(network, preprocess, checkpoint.digest)
    from core.backends.torch_cuda import open_gpu

    return open_gpu(network, preprocess, chosen, checkpoint.digest, name)


def check_weights(checkpoint: Checkpoint) -> None:
    """Raise CheckpointError where the weights do not fit their architecture; takes no memory for a network."""
    with torch.device("meta"):
        _require_fit(_build(checkpoint).state_dict(), checkpoint)


def _build(checkpoint: Checkpoint) -> nn.Module:
    """A network of the checkpoint's architecture, without its weights."""
    architecture = checkpoint.card.architecture
    if architecture.name not in MODELS:
        known = ", ".join(MODELS)
        raise CheckpointError(f"{checkpoint.path}: holds a {architecture.name!r}; this program knows {known}")
    return build_model(architecture.name, len(checkpoint.card.labels), architecture.width)


@contextmanager
def exact() -> Iterator[None]:
    """Run with CPU_THREADS in this thread of Python (to OpenMP the number belongs to the thread that asks), and with the
    kernels of cuDNN that give the same bits at every run."""
    before = torch.get_num_threads()
    torch.set_num_threads(CPU_THREADS)
    try:
        with _EXACT_CUDNN:
            yield
    finally:
        torch.set_num_threads(before)


class _ExactCudnn:
    """cuDNN without what changes bits from run to run, while anybody is inside: its flags are those of the whole process,
    so the first of several workers sets them and the last one sets them back."""

    def __init__(self) -> None:
        self._lock, self._inside, self._flags = threading.Lock(), 0, ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                flags = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
                self._flags.enter_context(flags)
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._flags.close()


_EXACT_CUDNN = _ExactCudnn()


def device_count() -> int:
    """GPUs that this torch can use."""
    return torch.cuda.device_count()


def choose_device(device: str = "auto") -> torch.device:
    """`auto`, `cpu`, `cuda` or `cuda:N` to a device. Raises InputError where it is not there."""
    if device == "auto":
        return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    count = torch.cuda.device_count()
    try:
        chosen = torch.device(device)
        there = (chosen.type == "cpu" and not chosen.index) or (chosen.type == "cuda" and (chosen.index or 0) < count)
    except RuntimeError:
        there = False
    if not there:
        visible = ", ".join(["cpu", *(f"cuda:{n}" for n in range(count))])
        raise InputError(f"no device {device!r}; on this machine: auto, {visible}")
    return chosen


def to_tensors(network: nn.Module) -> Tensors:
    """The state of a network as arrays for a checkpoint."""
    return {name: value.detach().cpu().numpy() for name, value in network.state_dict().items()}


def load_state(network: nn.Module, checkpoint: Checkpoint, new_head: bool = False) -> list[str]:
    """Load a checkpoint's weights into a network; names and shapes must match exactly.

    With `new_head`, tensors whose name begins with "head." keep their fresh values, for other classes than the
    checkpoint's; their names are returned. Raises CheckpointError that names what is missing, left over or of another shape.
    """
    own = network.state_dict()
    fresh = {name for name in own if new_head and name.startswith("head.")}
    _require_fit(own, checkpoint, fresh)
    given = {name: torch.from_numpy(np.array(array)) for name, array in checkpoint.tensors.items() if name not in fresh}
    network.load_state_dict({**own, **given})
    return sorted(fresh)


def _require_fit(own: dict[str, Tensor], checkpoint: Checkpoint, fresh: AbstractSet[str] = frozenset()) -> None:
    """Raise CheckpointError where the checkpoint's names or shapes are others than a network's, shapes of `fresh` aside."""
    given = checkpoint.tensors
    other = {name for name in own.keys() & given.keys() if own[name].shape != given[name].shape}
    problems = (
        *(f"{name} is missing" for name in sorted(own.keys() - given.keys())),
        *(f"{name} is unknown" for name in sorted(given.keys() - own.keys())),
        *(f"{n} is {list(given[n].shape)}, expected {list(own[n].shape)}" for n in sorted(other - fresh)),
    )
    if problems:
        more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise CheckpointError(f"{checkpoint.path}: its weights do not fit its architecture: {problems[0]}{more}")


def confusion(labels: Tensor, predictions: Tensor, num_classes: int) -> Tensor:
    """`core.evaluation.metrics.confusion` on a device: two integer tensors of one shape to (K, K + 1) int64, without a sync."""
    columns = num_classes + 1
    cell = labels.long() * columns + predictions.long().clamp(max=num_classes)
    # void goes to a cell of its own that is cut off: selecting by a mask would make the device wait for the host
    cell = torch.where(labels == VOID, num_classes * columns, cell).flatten()
    counts = torch.zeros(num_classes * columns + 1, dtype=torch.int64, device=cell.device)
    # not bincount: on a GPU it asks for the largest value first, which is such a wait too
    return counts.scatter_add_(0, cell, torch.ones_like(cell))[:-1].view(num_classes, columns)
