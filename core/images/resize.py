"""Preprocess: a photograph to the network's input, and back; the resizing that training and serving share."""

from __future__ import annotations

from typing import Annotated, Literal

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from core.images.decode import RGB

Size = tuple[int, int]  # (height, width) in pixels
# a card with other numbers would fail at the first photograph, or take all memory
Side = Annotated[int, Field(ge=1, le=4096)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(ge=1e-6, allow_inf_nan=False)]


class Preprocess(BaseModel):
    """How a photograph becomes the network's input; every checkpoint carries the one it was trained with.

    `stretch` resizes to `size` whatever the aspect. `fit` keeps the aspect: the area becomes that of `size`, the
    sides are rounded to `stride`. `mean` and `std` are per channel (RGB), of values in 0..1 (those of ImageNet).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Literal["stretch", "fit"] = "fit"
    size: tuple[Side, Side] = Field(default=(256, 256))
    stride: int = Field(default=16, ge=1, le=256)
    mean: tuple[Finite, Finite, Finite] = (0.485, 0.456, 0.406)
    std: tuple[Positive, Positive, Positive] = (0.229, 0.224, 0.225)

    def shape(self, height: int, width: int) -> Size:
        """Size of the network's input for a photograph of this size."""
        if self.mode == "stretch":
            return self.size
        area = self.size[0] * self.size[1]
        scale = (area / (height * width)) ** 0.5
        # a side can't go below one stride; the other is then cut, so that a 1x10000 strip costs no more than a photo
        longest = max(self.stride, area // self.stride // self.stride * self.stride)
        fitted_height, fitted_width = (
            min(longest, max(self.stride, round(side * scale / self.stride) * self.stride)) for side in (height, width)
        )
        return fitted_height, fitted_width

    def resize(self, rgb: RGB) -> RGB:
        """(H, W, 3) uint8 RGB to the same at the network's size."""
        return resize_photo(rgb, self.shape(*rgb.shape[:2]))

    @property
    def factors(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Scale and shift (3,) float32 of `normalise`: values 0..255 times the one less the other."""
        scale, shift = [1 / (255 * s) for s in self.std], [m / s for m, s in zip(self.mean, self.std, strict=True)]
        return np.array(scale, np.float32), np.array(shift, np.float32)

    def normalise(self, rgb: RGB) -> npt.NDArray[np.float32]:
        """(H, W, 3) uint8 RGB to (3, H, W) float32 of about zero mean and unit variance."""
        scale, shift = self.factors
        values = np.arange(256, dtype=np.float32)[:, None] * scale - shift
        x = np.empty((3, *rgb.shape[:2]), np.float32)
        for channel, table, out in zip(cv2.split(rgb), values.T, x, strict=True):  # looked up: several times as fast
            cv2.LUT(channel, np.ascontiguousarray(table)[None], dst=out)
        return x

    def __call__(self, rgb: RGB) -> npt.NDArray[np.float32]:
        """Photograph (H, W, 3) uint8 RGB to (3, H', W') float32 at the network's size, normalised."""
        return self.normalise(self.resize(rgb))

    def restore(self, x: npt.NDArray[np.float32]) -> RGB:
        """Inverse of `normalise`: (3, H, W) float32 to (H, W, 3) uint8 RGB."""
        values = (x.transpose(1, 2, 0) * np.array(self.std, np.float32) + np.array(self.mean, np.float32)) * 255
        return np.ascontiguousarray(values.round().clip(0, 255).astype(np.uint8))


def resize_photo(rgb: RGB, size: Size) -> RGB:
    """Resize (H, W, 3) uint8 to `size`: area-averaged where an axis shrinks, linear (half-pixel centres) where it grows."""
    height, width = rgb.shape[:2]
    new_height, new_width = size
    shrinks = new_height < height, new_width < width
    if shrinks[0] == shrinks[1] or (new_height == height or new_width == width):
        if size == (height, width):
            return rgb
        method = cv2.INTER_AREA if any(shrinks) else cv2.INTER_LINEAR
        return cv2.resize(rgb, (new_width, new_height), interpolation=method).astype(np.uint8, copy=False)
    # one axis shrinks and the other grows: each by its own rule, the shrinking one first because it leaves less to do
    between = (new_height, width) if shrinks[0] else (height, new_width)
    return resize_photo(resize_photo(rgb, between), size)


def resize_label(labels: npt.NDArray[np.uint8], size: Size) -> npt.NDArray[np.uint8]:
    """Resize (H, W) class indices to `size`: nearest at half-pixel centres, so that it stays aligned with the photo."""
    resized = cv2.resize(labels, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    return resized.astype(np.uint8, copy=False)
