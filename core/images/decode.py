"""Decoding of images and label files, with one error type for everything that can be wrong with them."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image

from core.errors import ImageError, InputError
from core.images.limits import MAX_PIXELS, MAX_SIDE
from core.images.sanitize import JPEG_SIGNATURE, PNG_SIGNATURE, read_jpeg_header, strip_ancillary_chunks

RGB = npt.NDArray[np.uint8]  # (H, W, 3), channels in RGB order, values 0..255
ImageSource = str | Path | bytes | Image.Image | RGB  # a file, an encoded image, a Pillow image or pixels
JPEG_FACTORS = (8, 4, 2)  # by which libjpeg can reduce an image while it decodes it, at a fraction of the time
PNG_GRAYSCALE = 0  # color type in a PNG header
CMYK_CHANNELS = 4
TRANSPOSED = (5, 6, 7, 8)  # EXIF orientations whose rows are the columns of the upright image
MAX_EXTRANEOUS_BYTES = 64
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
OTHER_FORMATS = (
    (b"GIF8", "a GIF"),
    (b"II*\0", "a TIFF"),
    (b"MM\0*", "a TIFF"),
    (b"BM", "a BMP"),
    (b"%PDF", "a PDF"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\0\0\0\x0cjP", "a JPEG 2000"),
)
HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1", b"avif", b"avis")
MP4_FIRST_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")  # also those of a MOV
VIDEO_SIGNATURES = (b"\x1a\x45\xdf\xa3", b"\0\0\x01\xba", b"\0\0\x01\xb3")  # Matroska and WebM, MPEG-1 and MPEG-2
MPEG_TS_PACKET_BYTES = 188
VIDEO_HINT = "to segment a video, run `python -m training predict MODEL VIDEO`"

# OpenCV would log a line for each damaged image.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def has_image_signature(head: bytes) -> bool:
    """Return whether the first 12 bytes of a file are the signature of a JPEG, a PNG or a WebP."""
    return head.startswith((b"\xff\xd8\xff", PNG_SIGNATURE)) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


def decode_image(
    data: bytes, max_pixels: int = MAX_PIXELS, max_side: int = MAX_SIDE, on_size: Callable[[int], None] = lambda _: None
) -> RGB:
    """Decode a JPEG, PNG or WebP to (H, W, 3) uint8 RGB, rotated upright by its EXIF orientation.

    Grayscale, palette and CMYK images become RGB, 16 bits become 8, transparency is dropped, and a JPEG with several
    images (as phones write) yields the first. The size limits apply to the header, before any pixel is decoded.

    Args:
        max_pixels: Maximum number of pixels.
        max_side: Maximum height and width in pixels.
        on_size: Called with the number of pixels before decoding; an exception that it raises cancels the decoding.

    Raises:
        ImageError: With any of the codes that its docstring lists.
    """
    return decode_reduced(data, None, max_pixels, max_side, on_size)[0]


def decode_reduced(
    data: bytes,
    needed_size: Callable[[int, int], tuple[int, int]] | None,
    max_pixels: int = MAX_PIXELS,
    max_side: int = MAX_SIDE,
    on_size: Callable[[int], None] = lambda _: None,
) -> tuple[RGB, tuple[int, int]]:
    """Decode as `decode_image` does, but a JPEG at 1/2, 1/4 or 1/8 of its size if that is enough.

    The decoder then averages blocks of pixels by its cosine transform, several times as fast as decoding all of them and
    resizing the image.

    Args:
        needed_size: Returns the size below which an image of the given height and width must not be reduced; with None,
            no image is.
        max_pixels: See `decode_image`, as `max_side` and `on_size`.

    Returns:
        The image (h, w, 3) uint8 RGB, and its size (H, W) before the reduction.

    Raises:
        ImageError: With any of the codes that its docstring lists.
    """
    if not has_image_signature(data[:12]):
        raise ImageError(f"{_guess_format(data)}; expected a JPEG, PNG or WebP image", "unsupported_image_format")
    stripped = strip_ancillary_chunks(data)
    jpeg = read_jpeg_header(data) if data.startswith(JPEG_SIGNATURE) else None
    width, height, frames = (jpeg.width, jpeg.height, 1) if jpeg else _read_header(data)
    if width * height > max_pixels or max(width, height) > max_side:
        raise ImageError(
            f"the image has {width}x{height} pixels; expected at most {max_pixels:,} pixels and {max_side:,} per side",
            "too_large",
        )
    if frames > 1:
        raise ImageError(f"the image has {frames} frames; expected a still image with one frame", "animated_image")
    on_size(width * height)
    if jpeg and jpeg.channels != CMYK_CHANNELS:
        size = (width, height) if jpeg.orientation in TRANSPOSED else (height, width)
        factor = _reduction(size, needed_size(*size)) if needed_size else 1
        return _rotate_upright(_decode_jpeg(data, -(-height // factor), -(-width // factor)), jpeg.orientation), size
    try:
        rgb = cv2.imdecode(np.frombuffer(stripped, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error:
        rgb = None
    if rgb is None:
        raise ImageError("the image is damaged or incomplete; expected a complete JPEG, PNG or WebP")
    return rgb.astype(np.uint8, copy=False), (rgb.shape[0], rgb.shape[1])


def _reduction(size: tuple[int, int], needed: tuple[int, int]) -> int:
    """Return the largest factor by which an image of `size` can be reduced without falling below the `needed` size."""
    return next((f for f in JPEG_FACTORS if all(side >= f * least for side, least in zip(size, needed, strict=True))), 1)


def _decode_jpeg(data: bytes, height: int, width: int) -> RGB:
    """Decode a gray or color JPEG to (height, width, 3) uint8 RGB: its own size, or a half, a quarter or an eighth of it.

    At its own size, the pixels are those of OpenCV, which however invents the pixels of damaged parts. Raises ImageError.
    """

    def decode(strict: bool) -> RGB:
        rgb: RGB = simplejpeg.decode_jpeg(data, "RGB", min_height=height, min_width=width, strict=strict)
        return rgb

    try:
        try:
            return decode(strict=True)
        except ValueError as warning:
            if _is_damage(str(warning)):
                raise
            return decode(strict=False)
    except ValueError as error:
        raise ImageError(f"the image is damaged or incomplete ({error}); expected a complete JPEG") from None


def _is_damage(message: str) -> bool:
    """Return whether a message of libjpeg means wrong pixels; others concern metadata."""
    extraneous = re.search(r"(\d+) extraneous bytes", message)
    if extraneous:  # some cameras leave a few bytes between segments
        return int(extraneous[1]) > MAX_EXTRANEOUS_BYTES
    return any(
        text in message.lower() for text in ("premature end", "bad huffman code", "bad arithmetic code", "instead of rst")
    )


def _rotate_upright(rgb: RGB, orientation: int) -> RGB:
    """Undo the rotation and mirroring that an EXIF orientation states, 1..8."""
    if orientation in TRANSPOSED:
        rgb = np.ascontiguousarray(rgb.transpose(1, 0, 2))  # the orientation is now 1, 2, 3 or 4
        orientation = {5: 1, 6: 2, 7: 3, 8: 4}[orientation]
    if orientation > 1:
        return cv2.flip(rgb, {2: 1, 3: -1, 4: 0}[orientation]).astype(np.uint8, copy=False)
    return rgb


def _read_header(data: bytes) -> tuple[int, int, int]:
    """Return width, height and number of frames of a PNG or WebP."""
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "WEBP")) as image:
            return image.width, image.height, int(getattr(image, "n_frames", 1))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:  # a filter can raise the warning
        raise ImageError(f"the image has too many pixels ({error}); send a smaller one", "too_large") from None
    # Pillow raises OSError, SyntaxError, KeyError and others for damaged files, and its messages can repeat the input.
    except Exception:
        raise ImageError("the image is damaged: its header can't be read; expected a complete PNG or WebP") from None


def _guess_format(data: bytes) -> str:
    """Return what the first bytes suggest, for an error message that must not repeat the bytes themselves."""
    if not data:
        return "the file is empty"
    for signature, name in OTHER_FORMATS:
        if data.startswith(signature):
            return f"this looks like {name}"
    if data[4:8] == b"ftyp" and data[8:12] in HEIF_BRANDS:
        return "this looks like a HEIC or AVIF image (export it as JPEG)"
    if _is_video(data):
        return f"this looks like a video ({VIDEO_HINT})"
    return "this is not an image"


def _is_video(data: bytes) -> bool:
    """Return whether the first bytes are those of an MP4, MOV, Matroska, WebM, AVI or MPEG video."""
    return (
        data.startswith(VIDEO_SIGNATURES)
        or (data[:1] == b"\0" and data[4:8] in MP4_FIRST_BOXES)
        or (data[:4] == b"RIFF" and data[8:12] == b"AVI ")
        or data[: 3 * MPEG_TS_PACKET_BYTES : MPEG_TS_PACKET_BYTES] == b"GGG"  # Every packet begins with this byte.
    )


@dataclass(frozen=True, eq=False)
class LoadedImage:
    """An image, decoded at a reduced size if that is enough for the network.

    Attributes:
        pixels: The image (h, w, 3) uint8 RGB as `decode_reduced` returns it.
        size: Its own size (H, W).
        encoded: The encoded image if `pixels` are reduced, otherwise None.
        max_pixels: Maximum number of pixels.
    """

    pixels: RGB
    size: tuple[int, int]
    encoded: bytes | None = None
    max_pixels: int = MAX_PIXELS

    @cached_property
    def full(self) -> RGB:
        """The whole image (H, W, 3) uint8 RGB, decoded at the first access."""
        return self.pixels if self.encoded is None else decode_image(self.encoded, self.max_pixels, self.max_pixels)


def load_image(
    source: ImageSource,
    needed_size: Callable[[int, int], tuple[int, int]] | None = None,
    max_pixels: int = MAX_PIXELS,
    name: str = "",
) -> LoadedImage:
    """Load an image: a path, encoded bytes, an array (H, W, 3) uint8 RGB or a Pillow image.

    Args:
        source: The image.
        needed_size: See `decode_reduced`.
        max_pixels: Maximum number of pixels; with another value than MAX_PIXELS, the sides have no limit of their own.
        name: What messages call encoded bytes.

    Raises:
        InputError: `source` is something else (a float array, a batch, a Pillow image of another mode than RGB) or a file that
            can't be read.
        ImageError: The path or the bytes hold no usable image; the message starts with the path.
    """
    if isinstance(source, (str, Path)):
        try:
            data = Path(source).read_bytes()
        except OSError as error:
            raise InputError(f"{source}: can't be read ({error.strerror})") from None
        return load_image(data, needed_size, max_pixels, str(source))
    if isinstance(source, bytes):
        max_side = MAX_SIDE if max_pixels == MAX_PIXELS else max_pixels
        try:
            pixels, size = decode_reduced(source, needed_size, max_pixels, max_side)
        except ImageError as error:
            raise ImageError(f"{name}: {error}" if name else str(error), error.code) from None
        return LoadedImage(pixels, size, source if pixels.shape[:2] != size else None, max_pixels)
    array = np.asarray(source)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
        if isinstance(source, Image.Image):
            raise InputError(f"got a Pillow image of mode {source.mode}; expected RGB: image.convert('RGB')")
        actual = f"{array.dtype} {array.shape}" if array.dtype != object else type(source).__name__
        raise InputError(f"got {actual}; expected a path, an encoded image, a Pillow image, or (H, W, 3) uint8 in RGB order")
    return LoadedImage(np.ascontiguousarray(array), (array.shape[0], array.shape[1]))


@dataclass(frozen=True)
class LabelImage:
    """The pixels of a label file as they are stored.

    Attributes:
        values: Gray values or palette indices (H, W) uint8 or uint16, or RGB colors (H, W, 3) uint8.
        palette: RGB colors (N, 3) uint8 of the palette indices; None without a palette.
    """

    values: npt.NDArray[np.unsignedinteger[Any]]
    palette: npt.NDArray[np.uint8] | None = None


def read_label(path: Path) -> LabelImage:
    """Read a label PNG: grayscale with 8 or 16 bits, palette, RGB or RGBA (whose transparency is dropped).

    Raises:
        InputError: The file is not a readable PNG, or it is grayscale with alpha or with fewer than 8 bits: some writers
            scale the latter's values, so that white can mean 255 or the last class.
    """
    try:
        with Image.open(path, formats=("PNG",)) as image:
            mode = image.mode
            palette = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3) if mode == "P" else None
            values = np.asarray(image)
        with path.open("rb") as file:
            bit_depth, color_type = file.read(26)[24:]  # in the IHDR chunk, which always comes first
    except Exception as error:
        raise InputError(f"{path}: can't be read as a label PNG ({error})") from None
    if color_type == PNG_GRAYSCALE and bit_depth < 8:
        raise InputError(
            f"{path}: a grayscale label PNG with {bit_depth} bits per pixel is ambiguous (white can mean {2**bit_depth - 1}"
            " or 255); save it with 8 bits per pixel or with a palette"
        )
    if mode in ("RGB", "RGBA"):
        return LabelImage(np.ascontiguousarray(values[..., :3]))
    if mode not in ("L", "P", "I;16", "I;16B", "I"):
        raise InputError(f"{path}: a label PNG in mode {mode}; expected class ids (grayscale or palette) or class colors (RGB)")
    return LabelImage(values.astype(np.uint8 if mode in ("L", "P") else np.uint16, copy=False), palette)
