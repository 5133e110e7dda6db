"""Resizing and normalization of images and labels, shared by training and serving."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from core.images.decode import RGB

Size = tuple[int, int]  # (height, width) in pixels
# The limits reject checkpoint metadata that would fail at the first image or exhaust the memory.
Side = Annotated[int, Field(ge=1, le=4096)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(ge=1e-6, allow_inf_nan=False)]


class Preprocess(BaseModel):
    """The conversion of an image to the network's input; every checkpoint stores the one it was trained with.

    Attributes:
        mode: `stretch` resizes to `size` regardless of the aspect ratio. `fit` keeps the aspect ratio: the area becomes
            that of `size`, and the sides are rounded to multiples of `stride`.
        size: Height and width in pixels.
        stride: Factor by which the network downsamples its input.
        mean: Mean per RGB channel of values in 0..1; by default that of ImageNet.
        std: Standard deviation per RGB channel of values in 0..1; by default that of ImageNet.
        reduce_jpeg: Decode a JPEG at 1/2, 1/4 or 1/8 of its size if that is not below the network's input.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Literal["stretch", "fit"] = "fit"
    size: tuple[Side, Side] = Field(default=(256, 256))
    stride: int = Field(default=16, ge=1, le=256)
    mean: tuple[Finite, Finite, Finite] = (0.485, 0.456, 0.406)
    std: tuple[Positive, Positive, Positive] = (0.229, 0.224, 0.225)
    reduce_jpeg: bool = False  # as in checkpoints of version 0.1, which were scored with images of full size

    def output_size(self, height: int, width: int) -> Size:
        """Return the size (h, w) of the network's input for an image of this size in pixels."""
        if self.mode == "stretch":
            return self.size
        area = self.size[0] * self.size[1]
        scale = (area / (height * width)) ** 0.5
        # Limit the longer side: the shorter one can't be less than a stride, and a 1x10000 strip must not exceed the area.
        longest = max(self.stride, area // self.stride // self.stride * self.stride)
        fitted_height, fitted_width = (
            min(longest, max(self.stride, round(side * scale / self.stride) * self.stride)) for side in (height, width)
        )
        return fitted_height, fitted_width

    @property
    def needed_size(self) -> Callable[[int, int], Size] | None:
        """The function from an image's size to the size that `decode_reduced` must keep at least; None for whole images."""
        return self.output_size if self.reduce_jpeg else None

    def resize(self, rgb: RGB) -> RGB:
        """Resize an image (H, W, 3) uint8 RGB to the network's input size."""
        return resize_image(rgb, self.output_size(*rgb.shape[:2]))

    @property
    def scale_and_shift(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Scale and shift, (3,) float32 each: `normalize` computes value * scale - shift for values 0..255."""
        scale, shift = [1 / (255 * s) for s in self.std], [m / s for m, s in zip(self.mean, self.std, strict=True)]
        return np.array(scale, np.float32), np.array(shift, np.float32)

    def normalize(self, rgb: RGB) -> npt.NDArray[np.float32]:
        """Convert (H, W, 3) uint8 RGB to (3, H, W) float32 with about zero mean and unit variance."""
        scale, shift = self.scale_and_shift
        values = np.arange(256, dtype=np.float32)[:, None] * scale - shift
        x = np.empty((3, *rgb.shape[:2]), np.float32)
        # A table lookup for each channel is several times as fast as arithmetic on every pixel.
        for channel, table, out in zip(cv2.split(rgb), values.T, x, strict=True):
            cv2.LUT(channel, np.ascontiguousarray(table)[None], dst=out)
        return x

    def __call__(self, rgb: RGB) -> npt.NDArray[np.float32]:
        """Resize and normalize an image (H, W, 3) uint8 RGB to the network's input (3, h, w) float32."""
        return self.normalize(self.resize(rgb))

    def denormalize(self, x: npt.NDArray[np.float32]) -> RGB:
        """Invert `normalize`: convert (3, H, W) float32 to (H, W, 3) uint8 RGB."""
        values = (x.transpose(1, 2, 0) * np.array(self.std, np.float32) + np.array(self.mean, np.float32)) * 255
        return np.ascontiguousarray(values.round().clip(0, 255).astype(np.uint8))


def resize_image(rgb: RGB, size: Size) -> RGB:
    """Resize an image (H, W, 3) uint8 to `size` = (height, width).

    An axis that shrinks is averaged by area; one that grows is interpolated linearly with half-pixel centers.
    """
    height, width = rgb.shape[:2]
    new_height, new_width = size
    shrinks = new_height < height, new_width < width
    if shrinks[0] == shrinks[1] or (new_height == height or new_width == width):
        if size == (height, width):
            return rgb
        method = cv2.INTER_AREA if any(shrinks) else cv2.INTER_LINEAR
        return cv2.resize(rgb, (new_width, new_height), interpolation=method).astype(np.uint8, copy=False)
    # One axis shrinks and the other grows. Resize the shrinking axis first, so that the second step has fewer pixels.
    intermediate = (new_height, width) if shrinks[0] else (height, new_width)
    return resize_image(resize_image(rgb, intermediate), size)


def resize_label(labels: npt.NDArray[np.uint8], size: Size) -> npt.NDArray[np.uint8]:
    """Resize class indices (H, W) uint8 to `size` by nearest neighbor.

    Half-pixel centers keep the label aligned with the image.
    """
    resized = cv2.resize(labels, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    return resized.astype(np.uint8, copy=False)
