"""The result of segmenting one image: the image, its label map, and views of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from core.data.labels import LabelSpace
from core.errors import InputError
from core.images.decode import RGB, LoadedImage
from core.images.encode import LabelMap, count_classes, encode_indexed_png, encode_jpeg, encode_png, overlay
from core.images.legend import add_legend
from core.runtime.atomic import write_atomically


@dataclass(frozen=True, eq=False)
class SegmentationResult:
    """What `Segmenter` returns for an image. numpy converts it to its label map: `np.asarray(result)`."""

    loaded: LoadedImage  # the image as it was loaded for the network
    labels: LabelMap  # (H, W) uint8 class indices, IGNORE_INDEX (255) for pixels without a class
    classes: LabelSpace  # names and colors by class index
    confidence: npt.NDArray[np.float32] | None = None  # (H, W) probability of each pixel's class, 0..1, if requested

    @property
    def image(self) -> RGB:
        """The image (H, W, 3) uint8 RGB, upright. One that was loaded at a reduced size is decoded at the first access."""
        return self.loaded.full

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.labels.shape[0], self.labels.shape[1]

    @property
    def class_fractions(self) -> dict[str, float]:
        """Fraction of the pixels, 0..1, of each class that occurs; the largest first."""
        pixels = count_classes(self.labels, len(self.classes))
        return {self.classes.names[k]: count / self.labels.size for k, count in pixels.items()}

    def class_mask(self, class_: str | int) -> npt.NDArray[np.bool_]:
        """Return the pixels of a class, given by its name or index, (H, W) bool.

        Raises:
            InputError: There is no such class.
        """
        names = self.classes.names
        if class_ not in (names if isinstance(class_, str) else range(len(names))):
            raise InputError(f"no class {class_!r}; known: {', '.join(f'{k} {name}' for k, name in enumerate(names))}")
        mask: npt.NDArray[np.bool_] = self.labels == (names.index(class_) if isinstance(class_, str) else class_)
        return mask

    def color_mask(self) -> RGB:
        """Return the class colors, (H, W, 3) uint8 RGB; black for pixels without a class."""
        colors: RGB = self.classes.palette[self.labels]
        return colors

    def overlay(self, opacity: float = 0.5, legend: bool = False) -> RGB:
        """Return the class colors blended over the image, (H, W, 3) uint8 RGB; with a legend (H + h, W, 3).

        Args:
            opacity: 0 for the image alone to 1 for the colors alone.
            legend: Add a strip with the classes that occur.

        Raises:
            InputError: `opacity` is not from 0 to 1.
        """
        if not 0 <= opacity <= 1:
            raise InputError(f"opacity: {opacity}; expected 0 to 1")
        blended = overlay(self.image, self.labels, self.classes, opacity)
        return add_legend(blended, self.classes, self.labels) if legend else blended

    def save(self, path: str | Path, overlay: bool = False, legend: bool = False) -> Path:
        """Write the label map as an indexed PNG: its values are the class indices, its palette the class colors.

        Args:
            path: File name with the suffix .png; its directory is created if necessary.
            overlay: Write the overlay instead, as .png, .jpg or .jpeg.
            legend: Add the legend to the overlay.

        Returns:
            The path.

        Raises:
            InputError: The path has another suffix.
            OSError: The file can't be written.
        """
        path = Path(path)
        suffix = path.suffix.lower()
        if suffix != ".png" and not (overlay and suffix in (".jpg", ".jpeg")):
            raise InputError(f"{path}: expected a file name that ends in .png" + " or .jpg" * overlay)
        if not overlay:
            data = encode_indexed_png(self.labels, self.classes)
        else:
            blended = self.overlay(legend=legend)
            data = encode_png(blended) if suffix == ".png" else encode_jpeg(blended)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, [data])
        return path

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.array(self.labels, dtype=dtype) if copy else np.asarray(self.labels, dtype=dtype)

    def _repr_png_(self) -> bytes:
        """Return the overlay as a PNG, which Jupyter displays."""
        return encode_png(self.overlay())

    def __repr__(self) -> str:
        height, width = self.size
        largest = ", ".join(f"{name} {fraction:.1%}" for name, fraction in list(self.class_fractions.items())[:5])
        return f"<SegmentationResult {width}x{height}: {largest}>"
