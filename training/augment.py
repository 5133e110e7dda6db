"""Paired augmentation: image and label go through every step together, drawn from the generator that is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torchvision.transforms.v2 import functional as F

from core.datasets import Sample
from core.images import RGB
from core.labels import VOID
from core.transforms import Preprocess, resize_label, resize_photo
from training.cache import Kept

Augment = Callable[[Sample, np.random.Generator], Sample]

SCALE = (0.5, 2.0)  # of `street`, relative to the fitted picture
JITTER = 0.3  # of `street`: brightness, contrast and saturation are multiplied by 1 - JITTER .. 1 + JITTER


class Classic:
    """Stretch to the network's size, flip at random, rotate by a random multiple of 90 degrees.

    Where height is not width only 0 and 180 degrees keep the size, and only they are drawn.
    """

    mode: Literal["stretch", "fit"] = "stretch"

    def __init__(self, preprocess: Preprocess, scale: tuple[float, float] = SCALE) -> None:
        self.size = preprocess.size  # every picture has it: `scale` is the other recipe's
        self.keep = Kept(preprocess)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """(H, W, 3) uint8 RGB and (H, W) train ids to the same at the network's size."""
        rgb, labels = resize_photo(sample[0], self.size), resize_label(sample[1], self.size)
        square = self.size[0] == self.size[1]
        return rotate((flip((rgb, labels)) if rng.random() < 0.5 else (rgb, labels)), _steps(rng, square))


class Street:
    """Keep the aspect: scale 0.5..2 of the fitted picture, crop at random, flip, change brightness, contrast, saturation.

    Where the scaled picture is smaller than the crop it lies at a random place in it, surrounded by the mean colour
    and void.
    """

    mode: Literal["stretch", "fit"] = "fit"

    def __init__(self, preprocess: Preprocess, scale: tuple[float, float] = SCALE) -> None:
        self.preprocess = preprocess
        self.scale = scale
        self.keep = Kept(preprocess, factor=scale[1])  # what the largest scale needs
        self.mean = np.array(preprocess.mean) * 255

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """(H, W, 3) uint8 RGB and (H, W) train ids to the same at the network's size."""
        rgb, labels = sample
        fitted = self.preprocess.shape(*labels.shape)
        scale = np.exp(rng.uniform(*np.log(self.scale)))
        size = max(1, round(fitted[0] * scale)), max(1, round(fitted[1] * scale))
        rgb, labels = self.crop((resize_photo(rgb, size), resize_label(labels, size)), rng)
        return flip((rgb, labels)) if rng.random() < 0.5 else (rgb, labels)

    def crop(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """A window of the network's size at a random place, its colours changed; what lies outside the picture is
        mean colour and void."""
        height, width = self.preprocess.size
        rgb = np.broadcast_to(self.mean.round().astype(np.uint8), (height, width, 3)).copy()
        labels = np.full((height, width), VOID, np.uint8)
        source, target = zip(
            *(_window(have, want, rng) for have, want in zip(sample[1].shape, (height, width), strict=True)), strict=True
        )
        rgb[target], labels[target] = self.colours(sample[0][source], rng), sample[1][source]
        return rgb, labels

    @staticmethod
    def colours(rgb: RGB, rng: np.random.Generator) -> RGB:
        """Brightness, contrast and saturation, each by a factor of its own."""
        picture = torch.from_numpy(np.ascontiguousarray(rgb)).permute(2, 0, 1)
        for adjust in (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation):
            picture = adjust(picture, float(rng.uniform(1 - JITTER, 1 + JITTER)))
        return np.ascontiguousarray(picture.permute(1, 2, 0).numpy())


RECIPES: dict[str, type[Classic | Street]] = {"classic": Classic, "street": Street}


def flip(sample: Sample) -> Sample:
    """Mirror left and right."""
    return _both(sample, F.horizontal_flip)


def rotate(sample: Sample, steps: int) -> Sample:
    """Rotate by `steps` quarter turns, counter-clockwise; no pixel is interpolated."""
    return _both(sample, lambda x: F.rotate(x, 90.0 * steps, expand=True)) if steps else sample


def _both(sample: Sample, operation: Callable[[torch.Tensor], torch.Tensor]) -> Sample:
    """Apply one torchvision operation to the photograph and the label alike."""
    rgb, labels = sample
    turned = operation(torch.from_numpy(rgb).permute(2, 0, 1)).permute(1, 2, 0).numpy()
    return np.ascontiguousarray(turned), np.ascontiguousarray(operation(torch.from_numpy(labels)[None])[0].numpy())


def _steps(rng: np.random.Generator, square: bool) -> int:
    return int(rng.integers(4)) if square else 2 * int(rng.integers(2))


def _window(have: int, want: int, rng: np.random.Generator) -> tuple[slice, slice]:
    """Where one axis of the picture is read and where it is written."""
    offset = int(rng.integers(abs(have - want) + 1))
    if have >= want:
        return slice(offset, offset + want), slice(0, want)
    return slice(0, have), slice(offset, offset + have)
