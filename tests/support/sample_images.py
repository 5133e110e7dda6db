"""Build valid and invalid image files for the tests of the decoder and of the service."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin

PNGSUITE = Path(__file__).parents[1] / "data" / "pngsuite"
VALID_PNGS = sorted(PNGSUITE.glob("*.png"))
BROKEN_SIGNATURES = ("xs1n0g01", "xs2n0g01", "xs4n0g01", "xs7n0g01", "xcrn0g04", "xlfn0g04")
BROKEN_PNGS = {
    path: "unsupported_image_format" if path.stem in BROKEN_SIGNATURES else "corrupt_image"
    for path in PNGSUITE.glob("broken/*.png")
}
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
SECRET = "a secret"
"""Text in the metadata of `secret_png`, which no output of the service may contain."""


def sample_image(height: int = 40, width: int = 60, seed: int = 0) -> np.ndarray:
    """Return an RGB image, uint8 (height, width, 3), with smooth colors and some noise, like a photograph."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    smooth = np.stack([128 + 100 * np.sin(x / 9 + k) * np.cos(y / 7 - k) for k in range(3)], -1)
    return (smooth + rng.normal(0, 6, smooth.shape)).clip(0, 255).astype(np.uint8)


def replace_by_noise(paths: Iterable[Path]) -> None:
    """Replace image files by noise of the same size, on which the decoding at a reduced size has a large effect."""
    rng = np.random.default_rng(0)
    for path in paths:
        with Image.open(path) as image:
            width, height = image.size
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(path)


def encode_image(format: str = "PNG", image: Image.Image | np.ndarray | None = None, **options: object) -> bytes:
    """Encode an image (by default `sample_image()`) with Pillow; `options` are those of `Image.save`."""
    file = io.BytesIO()
    image = sample_image() if image is None else image
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, format, **options)
    return file.getvalue()


def decode_with_pillow(data: bytes) -> np.ndarray:
    """Decode an image file with Pillow, upright, to RGB uint8 (H, W, 3).

    16-bit gray is shifted to 8 bits, because Pillow's own conversion saturates.
    """
    with Image.open(io.BytesIO(data)) as file:
        image = ImageOps.exif_transpose(file)
        if image.mode.startswith("I"):
            return np.stack([(np.asarray(image) >> 8).astype(np.uint8)] * 3, -1)
        return np.asarray(image.convert("RGB"))


def decode_mask(data: bytes) -> np.ndarray:
    """Return the label map in a mask (palette PNG) or a label image (gray PNG), uint8 (H, W)."""
    with Image.open(io.BytesIO(data)) as file:
        return np.asarray(file)


def png_chunk(kind: bytes, data: bytes = b"", crc: int | None = None) -> bytes:
    """Return the bytes of a PNG chunk, with its own checksum or the given one."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data) if crc is None else crc)


def png_chunks(png: bytes) -> list[tuple[bytes, bytes]]:
    """Split a PNG into its chunks, as (type, data) pairs."""
    chunks, offset = [], len(PNG_SIGNATURE)
    while offset < len(png):
        (length,) = struct.unpack(">I", png[offset : offset + 4])
        chunks.append((png[offset + 4 : offset + 8], png[offset + 8 : offset + 8 + length]))
        offset += 12 + length
    return chunks


def build_png(chunks: list[tuple[bytes, bytes]]) -> bytes:
    """Join chunks to a PNG."""
    return PNG_SIGNATURE + b"".join(png_chunk(*chunk) for chunk in chunks)


def ihdr(width: int, height: int, depth: int = 8, color_type: int = 2) -> tuple[bytes, bytes]:
    """Return the header chunk of a PNG."""
    return b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0)


def huge_png(width: int, height: int) -> bytes:
    """Return a PNG of a few bytes whose header announces a large image."""
    return build_png([ihdr(width, height), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")])


def huge_jpeg(width: int, height: int) -> bytes:
    """Return a JPEG whose header announces another size than its data has."""
    data = bytearray(encode_image("JPEG"))
    offset = data.index(b"\xff\xc0")
    data[offset + 5 : offset + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def png_with_chunk(kind: bytes, data: bytes, png: bytes | None = None) -> bytes:
    """Return a PNG with an additional chunk before its pixels."""
    chunks = png_chunks(png or encode_image())
    index = next(n for n, (name, _) in enumerate(chunks) if name == b"IDAT")
    return build_png([*chunks[:index], (kind, data), *chunks[index:]])


def decompression_bomb(kind: bytes, megabytes: int = 100) -> bytes:
    """Return a PNG with a zTXt, iTXt or iCCP chunk that inflates to `megabytes`."""
    compressed = zlib.compress(bytes(megabytes << 20), 9)
    return png_with_chunk(kind, {b"zTXt": b"k\0\0", b"iCCP": b"p\0\0", b"iTXt": b"k\0\1\0\0\0"}[kind] + compressed)


def png_with_bad_crc(kind: bytes) -> bytes:
    """Return a PNG with a wrong checksum on the chunks of one type."""
    chunks = png_chunks(encode_image())
    return PNG_SIGNATURE + b"".join(png_chunk(name, data, 1 if name == kind else None) for name, data in chunks)


def jpeg_with_scans(count: int) -> bytes:
    """Return a progressive JPEG that repeats one of its scans `count` times."""
    data = encode_image("JPEG", progressive=True)
    start = data.rindex(b"\xff\xda")
    scan, end_marker = data[start:-2], data[-2:]
    return data[:start] + scan * count + end_marker


def animated_image(format: str) -> bytes:
    """Return an animation of two frames."""
    file = io.BytesIO()
    frames = [Image.fromarray(sample_image(seed=seed)) for seed in range(2)]
    frames[0].save(file, format, save_all=True, append_images=frames[1:])
    return file.getvalue()


def secret_png() -> bytes:
    """Return a PNG with SECRET in its text, XMP, color profile and EXIF."""
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", SECRET)
    text.add_itxt("XML:com.adobe.xmp", SECRET, zip=True)
    return encode_image(pnginfo=text, icc_profile=SECRET.encode() * 20, exif=secret_exif())


def secret_exif() -> Image.Exif:
    """Return EXIF metadata with SECRET as the image description."""
    exif = Image.Exif()
    exif[0x010E] = SECRET
    return exif


def zip_archive(text: bytes = SECRET.encode()) -> bytes:
    """Return a ZIP archive with a page that contains `text`."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("page.html", b"<script>" + text + b"</script>")
    return file.getvalue()


def multi_picture_jpeg() -> bytes:
    """Return a multi-picture JPEG (MPO) as phones write them: the first image is the main one."""
    file = io.BytesIO()
    first, second = (Image.fromarray(sample_image(seed=seed)) for seed in (0, 5))
    first.save(file, "MPO", save_all=True, append_images=[second.resize((30, 20))], quality=95)
    return file.getvalue()


def rotated_image(orientation: int, format: str = "JPEG", **options: object) -> bytes:
    """Return an image file with an EXIF orientation (1 to 8)."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode_image(format, exif=exif, **options)
