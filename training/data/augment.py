"""Paired augmentation: image and label go through every step together, drawn from the generator that is given.

numpy and OpenCV only: the loader's threads run it, and torch's number of threads is not theirs to change.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from core.data.datasets import Sample
from core.data.labels import VOID
from core.images.decode import RGB
from core.images.resize import Preprocess, resize_label, resize_photo
from training.data.storage import Kept

Augment = Callable[[Sample, np.random.Generator], Sample]


@dataclass(frozen=True)
class AugmentOptions:
    """Ranges from which `Street` draws; `Classic` has none."""

    scale: tuple[float, float] = (0.5, 2.0)  # relative to the image at the network's size
    aspect: tuple[float, float] = (1.0, 1.0)  # factor on width / height
    jitter: float = 0.3  # brightness, contrast and saturation are each multiplied by 1 - jitter .. 1 + jitter


class Classic:
    """Resize to the network's size, flip at random, rotate by a random multiple of 90 degrees.

    If height and width differ, only 0 and 180 degrees keep the size, and only they are drawn.
    """

    mode: Literal["stretch", "fit"] = "stretch"

    def __init__(self, preprocess: Preprocess, options: AugmentOptions = AugmentOptions()) -> None:
        self.size = preprocess.size
        self.keep = Kept(preprocess)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Augment (H, W, 3) uint8 RGB and (H, W) train ids; both come out at the network's size."""
        rgb, labels = resize_photo(sample[0], self.size), resize_label(sample[1], self.size)
        square = self.size[0] == self.size[1]
        return rotate((flip((rgb, labels)) if rng.random() < 0.5 else (rgb, labels)), _steps(rng, square))


class Street:
    """Scale, crop, flip and change the colors at random.

    The image at the network's size is scaled by a random factor (log-uniform in `scale`), its aspect ratio is changed by
    another (log-uniform in `aspect`), and a window of the network's size is cropped from it. A scaled image that is smaller
    than the window is placed at random in it, surrounded by the mean color and void.
    """

    mode: Literal["stretch", "fit"] = "fit"

    def __init__(self, preprocess: Preprocess, options: AugmentOptions = AugmentOptions()) -> None:
        self.preprocess = preprocess
        self.scale, self.aspect, self.jitter = options.scale, options.aspect, options.jitter
        self.keep = Kept(preprocess, factor=self.scale[1])  # the resolution that the largest scale needs
        self.mean = np.array(preprocess.mean) * 255

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Augment (H, W, 3) uint8 RGB and (H, W) train ids; both come out at the network's size."""
        fitted = self.keep.fitted(*sample[1].shape)
        scale, aspect = np.exp(rng.uniform(*np.log(self.scale))), 1.0
        if self.aspect != (1, 1):  # no draw otherwise: runs without it keep their random numbers
            aspect = np.exp(rng.uniform(*np.log(self.aspect)))
        factors = scale / aspect**0.5, scale * aspect**0.5
        scaled = [max(1, round(side * factor)) for side, factor in zip(fitted, factors, strict=True)]
        height, width = self.preprocess.size
        rows, columns = (
            _window(have, size, want, rng) for have, size, want in zip(sample[1].shape, scaled, (height, width), strict=True)
        )
        rgb = np.broadcast_to(self.mean.round().astype(np.uint8), (height, width, 3)).copy()
        labels = np.full((height, width), VOID, np.uint8)
        # Crop before resizing: what lies outside of the window costs nothing.
        source, target = (rows[0], columns[0]), (rows[1], columns[1])
        size = target[0].stop - target[0].start, target[1].stop - target[1].start
        rgb[target] = self.colours(resize_photo(sample[0][source], size), rng)
        labels[target] = resize_label(sample[1][source], size)
        return flip((rgb, labels)) if rng.random() < 0.5 else (rgb, labels)

    def colours(self, rgb: RGB, rng: np.random.Generator) -> RGB:
        """Brightness, contrast and saturation, each by a factor of its own, as torchvision's adjust_... do."""
        brightness, contrast, saturation = rng.uniform(1 - self.jitter, 1 + self.jitter, 3)
        levels = np.arange(256)
        rgb = cv2.LUT(rgb, _clip(levels * brightness)).astype(np.uint8, copy=False)
        mean = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).mean()
        rgb = cv2.LUT(rgb, _clip(levels * contrast + mean * (1 - contrast))).astype(np.uint8, copy=False)
        grey = cv2.cvtColor(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        return cv2.addWeighted(rgb, saturation, grey, 1 - saturation, 0).astype(np.uint8, copy=False)


RECIPES: dict[str, type[Classic | Street]] = {"classic": Classic, "street": Street}


def flip(sample: Sample) -> Sample:
    """Mirror left and right."""
    return _both(sample, lambda x: cv2.flip(x, 1))


def rotate(sample: Sample, steps: int) -> Sample:
    """Rotate by `steps` quarter turns, counter-clockwise; no pixel is interpolated."""
    turns = {1: cv2.ROTATE_90_COUNTERCLOCKWISE, 2: cv2.ROTATE_180, 3: cv2.ROTATE_90_CLOCKWISE}
    return _both(sample, lambda x: cv2.rotate(x, turns[steps])) if steps else sample


def _both(sample: Sample, operation: Callable[[npt.NDArray[np.uint8]], Any]) -> Sample:
    """Apply one operation to the photograph and the label alike."""
    rgb, labels = (operation(part).astype(np.uint8, copy=False) for part in sample)
    return rgb, labels


def _clip(levels: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    return levels.clip(0, 255).astype(np.uint8)


def _steps(rng: np.random.Generator, square: bool) -> int:
    return int(rng.integers(4)) if square else 2 * int(rng.integers(2))


def _window(have: int, scaled: int, want: int, rng: np.random.Generator) -> tuple[slice, slice]:
    """Where one axis of a picture of `have` pixels, seen as `scaled` pixels, is read for a window of `want` pixels, and
    where in that window it is written."""
    if scaled >= want:
        length = max(1, round(want * have / scaled))
        offset = int(rng.integers(have - length + 1))
        return slice(offset, offset + length), slice(0, want)
    offset = int(rng.integers(want - scaled + 1))
    return slice(0, have), slice(offset, offset + scaled)
