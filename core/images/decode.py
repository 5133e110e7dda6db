"""Decoding photographs and label files, with one clean error for everything that can be wrong with them."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from core.errors import ImageError, InputError
from core.images.sanitize import JPEG, jpeg_size, pixels_only

RGB = npt.NDArray[np.uint8]  # (H, W, 3), red first, 0..255
MAX_PIXELS = 50_000_000
MAX_SIDE = 16_384
GREY = 0  # the kind of colours in a PNG's header
PHOTO_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")

# it would log a line for each damaged picture
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def is_photo(head: bytes) -> bool:
    """Whether the first 12 bytes are the signature of a JPEG, a PNG or a WebP."""
    return (
        head.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")
    )  # fmt: skip


def decode_photo(
    data: bytes, max_pixels: int = MAX_PIXELS, max_side: int = MAX_SIDE, weigh: Callable[[int], None] = lambda _: None
) -> RGB:
    """Decode a JPEG, PNG or WebP to (H, W, 3) uint8 RGB, upright by its EXIF orientation.

    Grey, palette and CMYK become RGB, 16 bits become 8, transparency is dropped, a phone's multi-picture JPEG gives
    its first picture. The size is read from the header and checked before a pixel is decoded,
    and `weigh` is told the number of pixels then: an exception of it ends the matter.
    Raises ImageError with the codes that its docstring lists.
    """
    if not is_photo(data[:12]):
        raise ImageError(f"{_describe(data)}; expected a JPEG, PNG or WebP picture", "not_an_image")
    essential = pixels_only(data)
    width, height, frames = _read_header(data)
    if width * height > max_pixels or max(width, height) > max_side:
        raise ImageError(
            f"the picture is {width}x{height} pixels; at most {max_pixels:,} pixels and {max_side:,} a side are taken",
            "too_large",
        )
    if frames > 1:
        raise ImageError(f"the picture has {frames} frames; expected one: send a still picture", "animated_image")
    weigh(width * height)
    try:
        rgb = cv2.imdecode(np.frombuffer(essential, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error:
        rgb = None
    if rgb is None:
        raise ImageError("the picture is damaged or incomplete; expected a whole JPEG, PNG or WebP")
    return rgb.astype(np.uint8, copy=False)


def _read_header(data: bytes) -> tuple[int, int, int]:
    """Width, height and number of frames (1 for a JPEG, whatever else it carries)."""
    if data.startswith(JPEG):
        return *jpeg_size(data), 1  # Pillow would read every segment, some of them byte by byte
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "WEBP")) as picture:
            return picture.width, picture.height, int(getattr(picture, "n_frames", 1))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:  # a warning can be made an error
        raise ImageError(f"the picture has too many pixels ({error}); send a smaller one", "too_large") from None
    except Exception:  # many kinds on damaged files: OSError, SyntaxError, KeyError, ...; its words may repeat what came
        raise ImageError("the picture is damaged: its header can't be read; expected a whole PNG or WebP") from None


def _describe(data: bytes) -> str:
    """What the first bytes look like, for an error message; never the bytes themselves."""
    kinds = (
        (b"GIF8", "a GIF"),
        (b"II*\0", "a TIFF"),
        (b"MM\0*", "a TIFF"),
        (b"BM", "a BMP"),
        (b"%PDF", "a PDF"),
        (b"PK\x03\x04", "a ZIP archive"),
        (b"\0\0\0\x0cjP", "a JPEG 2000"),
    )
    if not data:
        return "the file is empty"
    if data[4:8] == b"ftyp":
        return "this looks like a HEIC or AVIF picture or a film (export it as JPEG)"
    return next((f"this looks like {kind}" for magic, kind in kinds if data.startswith(magic)), "this is not a picture")


def read_photo(path: Path) -> RGB:
    """`decode_photo` of a file; the error names it."""
    try:
        return decode_photo(path.read_bytes())
    except ImageError as error:
        raise ImageError(f"{path}: {error}", error.code) from None
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror})") from None


def as_rgb(photo: str | Path | bytes | RGB) -> RGB:
    """A photograph as (H, W, 3) uint8 RGB: `read_photo` of a path, `decode_photo` of bytes, an array as it is.

    Raises InputError for anything else (a float array, BGRA, a batch), and what these raise.
    """
    if isinstance(photo, (str, Path)):
        return read_photo(Path(photo))
    if isinstance(photo, bytes):
        return decode_photo(photo)
    array = np.asarray(photo)  # a Pillow picture, too
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
        told = f"{array.dtype} {array.shape}" if array.dtype != object else type(photo).__name__
        raise InputError(f"got {told}; expected a path, an encoded picture, or (H, W, 3) uint8 with red first")
    return np.ascontiguousarray(array)


def read_label(path: Path) -> npt.NDArray[np.unsignedinteger[Any]]:
    """Values of a label PNG as (H, W) uint8 or uint16: palette indices, or grey values of 8 or 16 bit.

    Raises InputError: no such picture, colours, or grey of fewer bits, whose white may mean 255 or the last class.
    """
    try:
        with Image.open(path, formats=("PNG",)) as picture:
            mode = picture.mode
            values = np.asarray(picture)
        with path.open("rb") as file:
            depth, kind = file.read(26)[24:]
    except Exception as error:
        raise InputError(f"{path}: can't be read as a label PNG ({error})") from None
    if kind == GREY and depth < 8:
        raise InputError(f"{path}: a grey label PNG of {depth} bit a pixel, whose white may mean {2**depth - 1} or 255;"
                         " save it with 8 bit a pixel, or with a palette")  # fmt: skip
    if mode not in ("L", "P", "I;16", "I;16B", "I"):
        raise InputError(f"{path}: a label PNG of mode {mode}; expected one channel of class ids (grey or palette)")
    return values.astype(np.uint8 if mode in ("L", "P") else np.uint16, copy=False)
