"""Result: a photograph and its label map, and what people want of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from core.data.labels import LabelSpace
from core.errors import InputError
from core.images.decode import RGB
from core.images.encode import Labels, indexed_png, overlay, photo_jpeg, photo_png
from core.runtime.files import write_atomically


@dataclass(frozen=True, eq=False)
class Result:
    """What `Segmenter` gives for a photograph. numpy takes it for its label map: `np.asarray(result)`."""

    photo: RGB  # (H, W, 3) uint8, red first, upright
    labels: Labels  # (H, W) uint8 class indices, 255 where there is no class
    classes: LabelSpace  # names and colours, by index

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.labels.shape[0], self.labels.shape[1]

    @property
    def shares(self) -> dict[str, float]:
        """Class name -> share of the pixels, 0..1, of the classes that are there, the largest first."""
        pixels = np.bincount(self.labels.ravel(), minlength=256)[: len(self.classes)]
        order = [int(k) for k in np.argsort(-pixels, kind="stable") if pixels[k]]
        return {self.classes.names[k]: int(pixels[k]) / self.labels.size for k in order}

    def where(self, name: str) -> npt.NDArray[np.bool_]:
        """(H, W) bool: the pixels of a class. Raises InputError for a name that is none."""
        if name not in self.classes.names:
            raise InputError(f"no class {name!r}; known: {', '.join(self.classes.names)}")
        found: npt.NDArray[np.bool_] = self.labels == self.classes.names.index(name)
        return found

    def colours(self) -> RGB:
        """(H, W, 3) uint8 RGB: the class colours; black where there is no class."""
        coloured: RGB = self.classes.palette[self.labels]
        return coloured

    def overlay(self, opacity: float = 0.5) -> RGB:
        """(H, W, 3) uint8 RGB: the photograph under the class colours, of an opacity of 0..1. Raises InputError."""
        if not 0 <= opacity <= 1:
            raise InputError(f"opacity: {opacity}; expected 0 to 1")
        return overlay(self.photo, self.labels, self.classes, opacity)

    def save(self, path: str | Path, overlay: bool = False) -> Path:
        """Write the mask as an indexed PNG, whose values are the class indices and whose palette is their colours; with
        `overlay` the photograph under the colours, as .png or .jpg. Returns the path. Raises InputError, OSError.
        """
        path = Path(path)
        suffix = path.suffix.lower()
        if suffix != ".png" and not (overlay and suffix in (".jpg", ".jpeg")):
            raise InputError(f"{path}: expected a name that ends in .png" + " or .jpg" * overlay)
        if not overlay:
            data = indexed_png(self.labels, self.classes)
        else:
            data = photo_png(self.overlay()) if suffix == ".png" else photo_jpeg(self.overlay())
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, [data])
        return path

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.array(self.labels, dtype=dtype) if copy else np.asarray(self.labels, dtype=dtype)

    def _repr_png_(self) -> bytes:
        """What a notebook shows: the overlay."""
        return photo_png(self.overlay())

    def __repr__(self) -> str:
        height, width = self.size
        shares = ", ".join(f"{name} {share:.1%}" for name, share in list(self.shares.items())[:5])
        return f"<Result {width}x{height}: {shares}>"
