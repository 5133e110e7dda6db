"""Pictures that nobody should send, made from good ones: for the decoder's tests and the service's."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin

PNGSUITE = Path(__file__).parents[1] / "data" / "pngsuite"
VALID = sorted(PNGSUITE.glob("*.png"))
BROKEN_SIGNATURE = ("xs1n0g01", "xs2n0g01", "xs4n0g01", "xs7n0g01", "xcrn0g04", "xlfn0g04")
BROKEN = {path: "not_an_image" if path.stem in BROKEN_SIGNATURE else "broken_image" for path in PNGSUITE.glob("broken/*.png")}
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def photo(height: int = 40, width: int = 60, seed: int = 0) -> np.ndarray:
    """Smooth colours with some noise, as photographs are."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    smooth = np.stack([128 + 100 * np.sin(x / 9 + k) * np.cos(y / 7 - k) for k in range(3)], -1)
    return (smooth + rng.normal(0, 6, smooth.shape)).clip(0, 255).astype(np.uint8)


def encoded(format: str = "PNG", picture: Image.Image | np.ndarray | None = None, **options: object) -> bytes:
    """A picture as a file."""
    file = io.BytesIO()
    picture = photo() if picture is None else picture
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(file, format, **options)
    return file.getvalue()


def pillows(data: bytes) -> np.ndarray:
    """What Pillow makes of a file, upright: (H, W, 3), 16 bits of grey shifted to 8 (converting them would saturate)."""
    with Image.open(io.BytesIO(data)) as file:
        picture = ImageOps.exif_transpose(file)
        if picture.mode.startswith("I"):
            return np.stack([(np.asarray(picture) >> 8).astype(np.uint8)] * 3, -1)
        return np.asarray(picture.convert("RGB"))


def chunk(kind: bytes, data: bytes = b"", crc: int | None = None) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data) if crc is None else crc)


def chunks(png: bytes) -> list[tuple[bytes, bytes]]:
    """Kinds and data of a PNG's chunks."""
    found, place = [], len(SIGNATURE)
    while place < len(png):
        (length,) = struct.unpack(">I", png[place : place + 4])
        found.append((png[place + 4 : place + 8], png[place + 8 : place + 8 + length]))
        place += 12 + length
    return found


def png_of(parts: list[tuple[bytes, bytes]]) -> bytes:
    """The PNG of these chunks."""
    return SIGNATURE + b"".join(chunk(*part) for part in parts)


def header(width: int, height: int, depth: int = 8, colour: int = 2) -> tuple[bytes, bytes]:
    """IHDR."""
    return b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)


def huge_png(width: int, height: int) -> bytes:
    """Few bytes that promise many pixels."""
    return png_of([header(width, height), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")])


def huge_jpeg(width: int, height: int) -> bytes:
    """A JPEG whose header tells another size than its data has."""
    data = bytearray(encoded("JPEG"))
    place = data.index(b"\xff\xc0")
    data[place + 5 : place + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def with_chunk(kind: bytes, data: bytes, png: bytes | None = None) -> bytes:
    """A PNG with one more chunk before its pixels."""
    parts = chunks(png or encoded())
    place = next(n for n, (name, _) in enumerate(parts) if name == b"IDAT")
    return png_of([*parts[:place], (kind, data), *parts[place:]])


def bomb(kind: bytes, megabytes: int = 100) -> bytes:
    """A PNG with a text or a profile that inflates to so much."""
    packed = zlib.compress(bytes(megabytes << 20), 9)
    return with_chunk(kind, {b"zTXt": b"k\0\0", b"iCCP": b"p\0\0", b"iTXt": b"k\0\1\0\0\0"}[kind] + packed)


def broken_crc(kind: bytes) -> bytes:
    """A PNG one of whose chunks has another checksum."""
    return SIGNATURE + b"".join(chunk(name, data, 1 if name == kind else None) for name, data in chunks(encoded()))


def many_scans(count: int) -> bytes:
    """A progressive JPEG one of whose scans comes again and again."""
    data = encoded("JPEG", progressive=True)
    begin = data.rindex(b"\xff\xda")
    scan, end = data[begin:-2], data[-2:]
    return data[:begin] + scan * count + end


def animated(format: str) -> bytes:
    """Two frames."""
    file = io.BytesIO()
    frames = [Image.fromarray(photo(seed=seed)) for seed in range(2)]
    frames[0].save(file, format, save_all=True, append_images=frames[1:])
    return file.getvalue()


def secret_png() -> bytes:
    """A PNG with words in its metadata."""
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "a secret")
    text.add_itxt("XML:com.adobe.xmp", "a secret", zip=True)
    return encoded(pnginfo=text, icc_profile=b"a secret" * 20, exif=secret_exif())


def secret_exif() -> Image.Exif:
    """Metadata with words in them."""
    exif = Image.Exif()
    exif[0x010E] = "a secret"
    return exif


def zipped(words: bytes = b"a secret") -> bytes:
    """A ZIP archive."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("page.html", b"<script>" + words + b"</script>")
    return file.getvalue()


def two_pictures() -> bytes:
    """What phones write: one JPEG after another, of which the first is the photograph."""
    file = io.BytesIO()
    first, second = (Image.fromarray(photo(seed=seed)) for seed in (0, 5))
    first.save(file, "MPO", save_all=True, append_images=[second.resize((30, 20))], quality=95)
    return file.getvalue()


def turned(orientation: int, format: str = "JPEG", **options: object) -> bytes:
    """A picture whose EXIF tells how it was held."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(format, exif=exif, **options)
