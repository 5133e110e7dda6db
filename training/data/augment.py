"""Paired augmentation: image and label go through every step together, with random numbers from a given generator.

Uses numpy and OpenCV only: the loader's threads run it, and they must not change torch's number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from core.data.datasets import Sample
from core.data.labels import IGNORE_INDEX
from core.images.decode import RGB
from core.images.resize import Preprocess, Size, resize_image, resize_label
from training.data.storage import StoragePolicy

if TYPE_CHECKING:
    from training.config import TrainConfig

Augment = Callable[[Sample, np.random.Generator], Sample]


@dataclass(frozen=True)
class AugmentOptions:
    """Ranges of `StreetAugmentation`; `ClassicAugmentation` has no options."""

    scale: tuple[float, float] = (0.5, 2.0)  # factor, relative to the image resized to the network's size
    aspect: tuple[float, float] = (1.0, 1.0)  # factor on width / height
    crop: Size | None = None  # (height, width) of the window; None: the network's size
    jitter: float = 0.3  # brightness, contrast and saturation are multiplied by factors from 1 - jitter to 1 + jitter


class ClassicAugmentation:
    """Resize to the network's size, random horizontal flip, and rotation by a random multiple of 90 degrees.

    If height and width differ, only 0 and 180 degrees keep the size, and only these are drawn.
    """

    mode: Literal["stretch", "fit"] = "stretch"

    def __init__(self, preprocess: Preprocess, options: AugmentOptions = AugmentOptions()) -> None:
        self.size = preprocess.size
        self.storage_policy = StoragePolicy(preprocess)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Augment (H, W, 3) uint8 RGB and (H, W) uint8 train ids; both have the network's size afterwards."""
        resized = resize_image(sample[0], self.size), resize_label(sample[1], self.size)
        flipped = hflip(resized) if rng.random() < 0.5 else resized
        is_square = self.size[0] == self.size[1]
        quarter_turns = int(rng.integers(4)) if is_square else 2 * int(rng.integers(2))
        return rot90(flipped, quarter_turns)


class StreetAugmentation:
    """Random scale, aspect ratio, crop, color jitter and horizontal flip.

    The image at the network's size is scaled by a random factor (log-uniform in `scale`), its aspect ratio is changed by
    another (log-uniform in `aspect`), and a window of size `crop` is cropped. A scaled image that is smaller than the
    window is put at a random position in it and padded with the mean color and void.
    """

    mode: Literal["stretch", "fit"] = "fit"

    def __init__(self, preprocess: Preprocess, options: AugmentOptions = AugmentOptions()) -> None:
        self.preprocess = preprocess
        self.scale, self.aspect, self.jitter = options.scale, options.aspect, options.jitter
        self.crop = options.crop or preprocess.size
        self.storage_policy = StoragePolicy(preprocess, factor=self.scale[1])  # the resolution of the largest scale
        self.mean = np.array(preprocess.mean) * 255

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Augment (H, W, 3) uint8 RGB and (H, W) uint8 train ids; both have the size of the window afterwards."""
        image, labels = sample
        base_size = self.storage_policy.network_size(*labels.shape)
        scale, aspect = np.exp(rng.uniform(*np.log(self.scale))), 1.0
        if self.aspect != (1, 1):  # Otherwise draw nothing, so that runs without --aspect keep their random numbers.
            aspect = np.exp(rng.uniform(*np.log(self.aspect)))
        factors = scale / aspect**0.5, scale * aspect**0.5
        scaled_size = [max(1, round(side * factor)) for side, factor in zip(base_size, factors, strict=True)]
        height, width = self.crop
        rows, columns = (
            _crop_or_pad(length, scaled, window, rng)
            for length, scaled, window in zip(labels.shape, scaled_size, (height, width), strict=True)
        )
        # Crop before resizing: pixels outside the window cost nothing.
        source, target = (rows[0], columns[0]), (rows[1], columns[1])
        size = target[0].stop - target[0].start, target[1].stop - target[1].start
        out_image = np.broadcast_to(self.mean.round().astype(np.uint8), (height, width, 3)).copy()
        out_labels = np.full((height, width), IGNORE_INDEX, np.uint8)
        out_image[target] = self.color_jitter(resize_image(image[source], size), rng)
        out_labels[target] = resize_label(labels[source], size)
        return hflip((out_image, out_labels)) if rng.random() < 0.5 else (out_image, out_labels)

    def color_jitter(self, rgb: RGB, rng: np.random.Generator) -> RGB:
        """Multiply brightness, contrast and saturation by random factors, as torchvision's `adjust_*` functions do."""
        brightness, contrast, saturation = rng.uniform(1 - self.jitter, 1 + self.jitter, 3)
        levels = np.arange(256)
        rgb = cv2.LUT(rgb, _clip(levels * brightness)).astype(np.uint8, copy=False)
        mean = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).mean()
        rgb = cv2.LUT(rgb, _clip(levels * contrast + mean * (1 - contrast))).astype(np.uint8, copy=False)
        gray = cv2.cvtColor(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        return cv2.addWeighted(rgb, saturation, gray, 1 - saturation, 0).astype(np.uint8, copy=False)


AUGMENTATIONS: dict[str, type[ClassicAugmentation | StreetAugmentation]] = {
    "classic": ClassicAugmentation,
    "street": StreetAugmentation,
}


def make_augmentation(config: TrainConfig, preprocess: Preprocess) -> ClassicAugmentation | StreetAugmentation:
    """Return the augmentation of a run."""
    return AUGMENTATIONS[config.augment](preprocess, AugmentOptions(config.scale, config.aspect, config.crop, config.jitter))


def make_preprocess(config: TrainConfig, stride: int) -> Preprocess:
    """Return how images become the network's input, in a run and wherever its checkpoints are used."""
    mode = config.resize or AUGMENTATIONS[config.augment].mode
    return Preprocess(mode=mode, size=config.size, stride=stride, reduce_jpeg=config.jpeg == "reduced")


def hflip(sample: Sample) -> Sample:
    """Flip image and label horizontally."""
    return _apply_to_both(sample, lambda array: cv2.flip(array, 1))


def rot90(sample: Sample, quarter_turns: int) -> Sample:
    """Rotate image and label counter-clockwise by 0 to 3 quarter turns, without interpolation."""
    codes = {1: cv2.ROTATE_90_COUNTERCLOCKWISE, 2: cv2.ROTATE_180, 3: cv2.ROTATE_90_CLOCKWISE}
    return _apply_to_both(sample, lambda array: cv2.rotate(array, codes[quarter_turns])) if quarter_turns else sample


def _apply_to_both(sample: Sample, operation: Callable[[npt.NDArray[np.uint8]], Any]) -> Sample:
    rgb, labels = (operation(array).astype(np.uint8, copy=False) for array in sample)
    return rgb, labels


def _clip(levels: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    return levels.clip(0, 255).astype(np.uint8)


def _crop_or_pad(length: int, scaled: int, window: int, rng: np.random.Generator) -> tuple[slice, slice]:
    """Draw the part of one axis to read, and where to write it in the window.

    Args:
        length: Pixels of the image.
        scaled: Pixels of the scaled image.
        window: Pixels of the window.

    Returns:
        A slice of the unscaled image, and a slice of the window that it is resized to.
    """
    if scaled >= window:
        cropped = max(1, round(window * length / scaled))
        offset = int(rng.integers(length - cropped + 1))
        return slice(offset, offset + cropped), slice(0, window)
    offset = int(rng.integers(window - scaled + 1))
    return slice(0, length), slice(offset, offset + scaled)
