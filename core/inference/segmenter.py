"""Segmenter: photograph to label map in three steps that every user of a checkpoint goes through."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from core.backends import Backend, Logits, open_backend
from core.checkpoints.checkpoint import Checkpoint, find_checkpoint, read_checkpoint
from core.data.labels import VOID, LabelSpace
from core.errors import InputError
from core.images.decode import RGB, as_rgb
from core.images.encode import Labels
from core.images.resize import Preprocess, Size
from core.inference.result import Result
from core.inference.sliding_window import bands
from core.inference.upsample import confidence
from core.runtime.threads import at_once

LogitsOf = Callable[[Sequence[RGB]], Sequence[Logits]]  # network inputs (h, w, 3) to their logits (K, h, w)


Photo = str | Path | bytes | npt.NDArray[np.uint8]


@dataclass(frozen=True)
class How:
    """How a photograph goes through the network: shrunk, or by tiles at its own scale; alone, or with its mirror image."""

    native: bool = False
    flip: bool = False


PLAIN = How()


class Segmenter:
    """Segments photographs with a network: `prepare`, `forward`, `label`, and their composition as a call.

    What is evaluated is what is served, bit for bit, because both go through here.
    """

    def __init__(self, source: Checkpoint | str | Path, device: str = "auto", backend: str = "auto") -> None:
        """Open a checkpoint: one in memory, a file, a run folder (its best) or the name of a shipped one.

        Raises CheckpointError or InputError.
        """
        if not isinstance(source, Checkpoint):
            name, path = find_checkpoint(source)
            source = read_checkpoint(path, name)
        self.backend: Backend = open_backend(source, device, backend)
        self.labels: LabelSpace = source.card.labels

    @classmethod
    def around(cls, backend: Backend, labels: LabelSpace) -> Segmenter:
        """A segmenter of a network that is in memory already, as in training."""
        segmenter = cls.__new__(cls)
        segmenter.backend, segmenter.labels = backend, labels
        return segmenter

    @property
    def preprocess(self) -> Preprocess:
        """How a photograph becomes the network's input."""
        return self.backend.preprocess

    def prepare(self, rgb: RGB) -> RGB:
        """Photograph (H, W, 3) uint8 RGB to network input (h, w, 3), the same at the network's size."""
        return self.preprocess.resize(rgb)

    def forward(self, batch: npt.NDArray[np.uint8]) -> list[Logits]:
        """Network input (N, h, w, 3) to the logits (K, h, w) float32 of each: arrays, or tensors on a GPU."""
        return self.backend.forward(batch)

    def label(self, logits: Logits, size: Size, threshold: float | None = None) -> Labels:
        """Logits (K, h, w) of one photograph to class indices (H, W) uint8 at its own size.

        With a `threshold` of 0.5 or more, pixels whose class is not more probable than that are 255, no class.
        """
        labels = self.backend.label(logits, size)
        if threshold is not None:
            labels[self.confidence(logits, size) <= threshold] = VOID
        return labels

    def confidence(self, logits: Logits, size: Size) -> npt.NDArray[np.float32]:
        """Logits (K, h, w) of one photograph to the probability (H, W) float32 of the class that `label` gives each pixel."""
        return confidence(self.backend.host(logits), size)

    def __call__(self, photo: Photo) -> Result:
        """Segment a photograph of any size: a file's path, an encoded picture, or (H, W, 3) uint8 RGB.

        Raises InputError where it can't be read or is none of these, ImageError where it is no picture.
        """
        rgb = as_rgb(photo)
        return Result(rgb, self.many([rgb])[0], self.labels)

    def many(
        self, photos: Sequence[RGB], sizes: Sequence[Size] | None = None, threshold: float | None = None, how: How = PLAIN
    ) -> list[Labels]:
        """Several photographs at once, those of one network size in one batch; the results are those of one by one.

        `sizes` are those of the label maps, the photographs' own where not told.
        """
        own = [(rgb.shape[0], rgb.shape[1]) for rgb in photos]
        if not how.native:
            inputs = at_once(self.prepare, photos)
            logits = self.flipped(inputs, self.logits) if how.flip else self.logits(inputs)
            return self.label_all(logits, sizes or own, threshold)
        if sizes and list(sizes) != own:
            raise InputError("at native resolution a label map has the size of its photograph, and none of another size")
        return [self.by_tiles(rgb, self.logits, threshold, how.flip) for rgb in photos]

    def by_tiles(self, rgb: RGB, logits_of: LogitsOf, threshold: float | None = None, flip: bool = False) -> Labels:
        """A photograph (H, W, 3) at its own scale, by tiles of the network's size whose logits `logits_of` gives."""
        stride, size = self.preprocess.stride, self.preprocess.size
        tile = (max(stride, size[0] // stride * stride), max(stride, size[1] // stride * stride))

        def through(inputs: Sequence[RGB]) -> Sequence[npt.NDArray[np.float32]]:
            logits = self.flipped(inputs, logits_of) if flip else logits_of(inputs)
            return [self.backend.host(each) for each in logits]

        labels = np.empty(rgb.shape[:2], np.uint8)
        for top, logits in bands(rgb, tile, through):
            rows = logits.shape[1]
            labels[top : top + rows] = self.label(logits, (rows, rgb.shape[1]), threshold)
        return labels

    def flipped(self, inputs: Sequence[RGB], logits_of: LogitsOf) -> list[Logits]:
        """The mean of the logits of each input and of its mirror image, turned back."""
        both = logits_of([*inputs, *(x[:, ::-1] for x in inputs)])
        return [self.backend.with_mirrored(*pair) for pair in zip(both[: len(inputs)], both[len(inputs) :], strict=True)]

    def label_all(self, logits: Sequence[Logits], sizes: Sequence[Size], threshold: float | None = None) -> list[Labels]:
        """`label` for several photographs, side by side."""
        return at_once(lambda pair: self.label(*pair, threshold), list(zip(logits, sizes, strict=True)))

    def logits(self, inputs: Sequence[RGB]) -> list[Logits]:
        """Network inputs (h, w, 3) of any sizes to their logits (K, h, w), in their order."""
        by_shape: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
        for place, x in enumerate(inputs):
            by_shape[x.shape].append(place)
        result: dict[int, Logits] = {}
        for places in by_shape.values():
            result.update(zip(places, self.forward(np.stack([inputs[p] for p in places])), strict=True))
        return [result[place] for place in range(len(inputs))]
