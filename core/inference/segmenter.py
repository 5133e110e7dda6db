"""The one path from image to label map: preprocess, forward, postprocess. What is evaluated is what is served."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar, overload

import numpy as np
import numpy.typing as npt

from core.backends.base import Backend, Logits
from core.backends.loader import load_backend
from core.checkpoints.checkpoint import Checkpoint, find_checkpoint, read_checkpoint
from core.data.labels import IGNORE_INDEX, LabelSpace
from core.errors import InputError
from core.images.decode import RGB, ImageSource, LoadedImage, load_image
from core.images.encode import LabelMap
from core.images.limits import MAX_PIXELS
from core.images.resize import Preprocess, Size
from core.inference.options import DEFAULT_OPTIONS, InferenceOptions
from core.inference.result import SegmentationResult
from core.inference.sliding_window import blended_bands
from core.inference.upsample import upsample_confidence
from core.runtime.threads import parallel_map

Source = TypeVar("Source", bound=ImageSource)  # The images of a list may all be of one kind, as in list[Path].
ForwardFn = Callable[[Sequence[RGB]], Sequence[Logits]]  # network inputs (h, w, 3) to the logits (K, h, w) of each


class Segmenter:
    """Segments images with the network of a checkpoint.

    Calling it composes the three steps `preprocess_image`, `forward` and `postprocess`. Evaluation and the service use
    the same steps, so that the scores are those of the masks that are served, bit for bit. K is the number of classes,
    (H, W) the size of an image and (h, w) that of the network's input.
    """

    def __init__(self, source: Checkpoint | str | Path, device: str = "auto", backend: str = "auto") -> None:
        """Load a network.

        Args:
            source: A checkpoint in memory, a checkpoint file, a run directory (its best checkpoint is used), or the
                name of a bundled checkpoint.
            device: `auto` (the first GPU, or the CPU if there is none), `cpu`, `cuda` or `cuda:N`.
            backend: `auto` or one of `core.backends.base.BACKENDS`.

        Raises:
            CheckpointError: `source` is not a readable checkpoint.
            InputError: The device or the backend is unknown or not available.
        """
        if not isinstance(source, Checkpoint):
            name, path = find_checkpoint(source)
            source = read_checkpoint(path, name)
        self.backend: Backend = load_backend(source, device, backend)
        self.labels: LabelSpace = source.metadata.labels
        calibration = source.metadata.calibration
        self.temperature = calibration.temperature if calibration else 1.0

    @classmethod
    def from_backend(cls, backend: Backend, labels: LabelSpace) -> Segmenter:
        """Return a segmenter for a network that is already in memory, as during training."""
        segmenter = cls.__new__(cls)
        segmenter.backend, segmenter.labels, segmenter.temperature = backend, labels, 1.0
        return segmenter

    @property
    def preprocess(self) -> Preprocess:
        """The resizing and normalization that the network was trained with."""
        return self.backend.preprocess

    def needed_size(self, options: InferenceOptions) -> Callable[[int, int], Size] | None:
        """Return the function for `decode_reduced` by which JPEGs are reduced, or None for whole images, as tiles need."""
        return None if options.tiled else self.preprocess.needed_size

    def preprocess_image(self, rgb: RGB) -> RGB:
        """Resize an image (H, W, 3) uint8 RGB to the network's input (h, w, 3) uint8; the backend normalizes it."""
        return self.preprocess.resize(rgb)

    def forward(self, batch: npt.NDArray[np.uint8]) -> list[Logits]:
        """Return the logits (K, h, w) float32 of each input in a batch (N, h, w, 3) uint8: arrays, or tensors on a GPU."""
        return self.backend.forward(batch)

    def postprocess(self, logits: Logits, size: Size, threshold: float | None = None) -> LabelMap:
        """Upsample the logits (K, h, w) of one image and return its class indices, `size` = (H, W) uint8.

        Args:
            threshold: Pixels become IGNORE_INDEX if the softmax of their class does not exceed this, from 0.5 to 1.
        """
        labels = self.backend.upsample_argmax(logits, size)
        if threshold is not None:
            labels[upsample_confidence(self.backend.to_numpy(logits), size) <= threshold] = IGNORE_INDEX
        return labels

    def confidence(self, logits: Logits, size: Size) -> npt.NDArray[np.float32]:
        """Return the calibrated probability of each pixel's class, `size` = (H, W) float32 in 0..1, from logits (K, h, w)."""
        return upsample_confidence(self.backend.to_numpy(logits), size, self.temperature)

    @overload
    def __call__(self, image: ImageSource, confidence: bool = False) -> SegmentationResult: ...
    @overload
    def __call__(self, image: list[ImageSource], confidence: bool = False) -> list[SegmentationResult]: ...
    @overload
    def __call__(self, image: list[Source], confidence: bool = False) -> list[SegmentationResult]: ...
    def __call__(
        self, image: ImageSource | list[ImageSource] | list[Source], confidence: bool = False
    ) -> SegmentationResult | list[SegmentationResult]:
        """Segment an image of any size: a path, encoded bytes, a Pillow image, or an array (H, W, 3) uint8 RGB.

        Args:
            image: The image, or a list of images, whose results are returned as a list. They may differ in size.
            confidence: Compute the confidence of each pixel, too.

        Raises:
            InputError: `image` is none of these, or the file can't be read.
            ImageError: The content is not a usable image.
        """
        if isinstance(image, list):
            return self.segment_batch(parallel_map(self.load_image, image), confidence=confidence)
        return self.segment_batch([self.load_image(image)], confidence=confidence)[0]

    def load_image(
        self,
        source: ImageSource,
        options: InferenceOptions = DEFAULT_OPTIONS,
        max_pixels: int = MAX_PIXELS,
        name: str = "",
    ) -> LoadedImage:
        """Load an image for `segment_batch` as `core.images.decode.load_image` does, and decode as much as is needed."""
        return load_image(source, self.needed_size(options), max_pixels, name)

    def segment_batch(
        self, images: Sequence[LoadedImage], options: InferenceOptions = DEFAULT_OPTIONS, confidence: bool = False
    ) -> list[SegmentationResult]:
        """Return the results of several images from `load_image`; equal to segmenting them one by one."""
        if options.tiled:
            return [self._segment_tiled(image, options, confidence) for image in images]
        logits = self._forward_images([image.pixels for image in images], options)

        def finish(pair: tuple[LoadedImage, Logits]) -> SegmentationResult:
            image, size = pair[0], pair[0].size
            probabilities = self.confidence(pair[1], size) if confidence else None
            return SegmentationResult(image, self.postprocess(pair[1], size), self.labels, probabilities)

        return parallel_map(finish, list(zip(images, logits, strict=True)))

    def _segment_tiled(self, image: LoadedImage, options: InferenceOptions, confidence: bool) -> SegmentationResult:
        probabilities = np.empty(image.size, np.float32) if confidence else None
        labels = self.sliding_window_inference(
            image.full, self.forward_batch, hflip_tta=options.hflip_tta, confidence_out=probabilities
        )
        return SegmentationResult(image, labels, self.labels, probabilities)

    def predict_batch(
        self,
        images: Sequence[RGB],
        sizes: Sequence[Size] | None = None,
        threshold: float | None = None,
        options: InferenceOptions = DEFAULT_OPTIONS,
    ) -> list[LabelMap]:
        """Return the label maps of several images (H, W, 3) uint8 RGB; equal to segmenting them one by one.

        Images that have the same network input size share a batch.

        Args:
            sizes: Sizes (H, W) of the label maps; by default those of the images. Tiled inference allows no others.
            threshold: See `postprocess`.
        """
        image_sizes = [(rgb.shape[0], rgb.shape[1]) for rgb in images]
        if not options.tiled:
            return self.postprocess_batch(self._forward_images(images, options), sizes or image_sizes, threshold)
        if sizes and list(sizes) != image_sizes:
            raise InputError("at native resolution, a label map must have the size of its image")
        return [self.sliding_window_inference(rgb, self.forward_batch, threshold, options.hflip_tta) for rgb in images]

    def sliding_window_inference(
        self,
        rgb: RGB,
        forward: ForwardFn,
        threshold: float | None = None,
        hflip_tta: bool = False,
        confidence_out: npt.NDArray[np.float32] | None = None,
    ) -> LabelMap:
        """Return the label map of an image (H, W, 3) at its native resolution, from tiles of the network's input size.

        Args:
            forward: Computes the logits of some tiles: `forward_batch`, or a function that shares a queue with others.
            confidence_out: Array (H, W) that receives the confidence of each pixel.
        """
        stride, size = self.preprocess.stride, self.preprocess.size
        tile = (max(stride, size[0] // stride * stride), max(stride, size[1] // stride * stride))

        def forward_tiles(tiles: Sequence[RGB]) -> Sequence[npt.NDArray[np.float32]]:
            batch = self.forward_hflip(tiles, forward) if hflip_tta else forward(tiles)
            return [self.backend.to_numpy(logits) for logits in batch]

        labels = np.empty(rgb.shape[:2], np.uint8)
        for top, logits in blended_bands(rgb, tile, forward_tiles):
            rows = logits.shape[1]
            labels[top : top + rows] = self.postprocess(logits, (rows, rgb.shape[1]), threshold)
            if confidence_out is not None:
                confidence_out[top : top + rows] = self.confidence(logits, (rows, rgb.shape[1]))
        return labels

    def _forward_images(self, images: Sequence[RGB], options: InferenceOptions) -> list[Logits]:
        """Return the logits (K, h, w) of images (H, W, 3), each resized to the network's input."""
        inputs = parallel_map(self.preprocess_image, images)
        return self.forward_hflip(inputs, self.forward_batch) if options.hflip_tta else self.forward_batch(inputs)

    def forward_hflip(self, inputs: Sequence[RGB], forward: ForwardFn) -> list[Logits]:
        """Return the mean of the logits of each input (h, w, 3) and the flipped-back logits of its flipped copy."""
        logits = forward([*inputs, *(x[:, ::-1] for x in inputs)])
        original, flipped = logits[: len(inputs)], logits[len(inputs) :]
        return [self.backend.average_hflip(*pair) for pair in zip(original, flipped, strict=True)]

    def forward_batch(self, inputs: Sequence[RGB]) -> list[Logits]:
        """Return the logits (K, h, w) of network inputs (h, w, 3), in order; inputs of one size form a batch."""
        indices_by_shape: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
        for index, x in enumerate(inputs):
            indices_by_shape[x.shape].append(index)
        result: dict[int, Logits] = {}
        for indices in indices_by_shape.values():
            result.update(zip(indices, self.forward(np.stack([inputs[i] for i in indices])), strict=True))
        return [result[index] for index in range(len(inputs))]

    def postprocess_batch(
        self, logits: Sequence[Logits], sizes: Sequence[Size], threshold: float | None = None
    ) -> list[LabelMap]:
        """Postprocess the logits of several images in parallel threads."""
        return parallel_map(lambda pair: self.postprocess(*pair, threshold), list(zip(logits, sizes, strict=True)))
