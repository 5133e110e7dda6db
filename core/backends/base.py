"""The interface of a backend and the names that `--backend` and `SEGMENT_BACKEND` accept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from core.checkpoints.exported import PRECISIONS
from core.images.resize import Preprocess, Size
from core.inference.upsample import upsample_argmax

TORCH, OPENVINO, ONNX = "torch", "openvino-", "onnx"
FP16, COMPILED = "-fp16", "-compiled"  # suffixes of TORCH: half precision, torch.compile
BACKENDS = (
    *(TORCH + precision + launch for launch in ("", COMPILED) for precision in ("", FP16)),
    *(OPENVINO + precision for precision in PRECISIONS),
    ONNX,
)

ImageBatch = npt.NDArray[np.uint8]  # (N, h, w, 3) RGB
Logits = Any  # (K, h, w) float32 of one image, wherever the backend keeps them: a numpy array or a torch tensor


class Backend(ABC):
    """A network that is ready to run.

    The logits of an image have the same bits whatever it is batched with, and `forward` may be called from any thread.

    Attributes:
        name: One of BACKENDS, for responses and reports.
        device: `cpu` or `cuda:N`.
        digest: Digest of the checkpoint or of the exported model that runs; empty for a network in training.
        preprocess: How an image becomes the input of this network.
        batch_size: Number of images that run faster together than one after another.
    """

    name: str
    device: str
    digest: str
    preprocess: Preprocess
    batch_size = 1

    @abstractmethod
    def forward(self, batch: ImageBatch) -> list[Logits]:
        """Return the logits (K, h, w) float32 of each image of a batch (N, h, w, 3) uint8 RGB of the network's size."""

    def upsample_argmax(self, logits: Logits, size: Size) -> npt.NDArray[np.uint8]:
        """Return the class indices (H, W) uint8 of logits (K, h, w) that are upsampled bilinearly to `size`."""
        return upsample_argmax(self.to_numpy(logits), size)

    def average_hflip(self, logits: Logits, flipped: Logits) -> Logits:
        """Return the mean of the logits (K, h, w) of an image and those of the horizontally flipped image, flipped back."""
        mean: npt.NDArray[np.float32] = np.float32(0.5) * (self.to_numpy(logits) + self.to_numpy(flipped)[..., ::-1])
        return mean

    def to_numpy(self, logits: Logits) -> npt.NDArray[np.float32]:
        """Return logits (K, h, w) as an array; accepts those of any backend."""
        array: npt.NDArray[np.float32] = logits if isinstance(logits, np.ndarray) else logits.cpu().numpy()
        return array


def network_inputs(batch: ImageBatch, preprocess: Preprocess) -> Iterator[npt.NDArray[np.float32]]:
    """Yield what a converted network gets for each image of a batch (N, h, w, 3) uint8 RGB: (1, 3, H, W) float32.

    The last row and column are repeated until H and W are multiples of the stride, as the networks do in training.
    """
    bottom, right = -batch.shape[1] % preprocess.stride, -batch.shape[2] % preprocess.stride
    if bottom or right:
        batch = np.pad(batch, ((0, 0), (0, bottom), (0, right), (0, 0)), "edge")
    for rgb in batch:
        yield preprocess.normalize(rgb)[None]
