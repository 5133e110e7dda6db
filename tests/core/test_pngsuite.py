"""The public PNG suite: Pillow's pixels for what is valid, a clean error for what is broken."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.errors import ImageError
from core.images import decode_photo
from tests.pictures import SIGNATURE, chunk, chunks, png_of

FOLDER = Path(__file__).parent / "pngsuite"
VALID = sorted(FOLDER.glob("*.png"))


def pixels(path: Path) -> np.ndarray:
    """What Pillow reads, 16 bits of grey shifted to 8 (converting them would saturate)."""
    with Image.open(path) as picture:
        if picture.mode.startswith("I"):
            grey = (np.asarray(picture) >> 8).astype(np.uint8)
            return np.stack([grey] * 3, -1)
        return np.asarray(picture.convert("RGB"))


@pytest.mark.parametrize("path", VALID, ids=lambda path: path.stem)
def test_a_valid_one_has_its_pixels(path: Path) -> None:
    assert np.array_equal(decode_photo(path.read_bytes()), pixels(path))


def test_the_suite_is_there() -> None:
    assert len(VALID) == 60


def plain(name: str) -> bytes:
    return (FOLDER / f"{name}.png").read_bytes()


def signature(name: str, position: int) -> bytes:
    """One byte of the signature without its highest bit, or another value where that is not set."""
    data = bytearray(plain(name))
    data[position] = data[position] & 0x7F if data[position] & 0x80 else data[position] ^ 0x20
    return bytes(data)


def checksum(name: str, kind: bytes) -> bytes:
    return SIGNATURE + b"".join(chunk(k, data, 0 if k == kind else None) for k, data in chunks(plain(name)))


def described(name: str, position: int, value: int) -> bytes:
    """Another depth (position 8) or colour type (9) in the header, its checksum right."""
    (kind, data), *rest = chunks(plain(name))
    return png_of([(kind, data[:position] + bytes([value]) + data[position + 1 :]), *rest])


# as the suite's page describes them
BROKEN = {
    "xs1n0g01": signature("basn0g01", 0),
    "xs2n0g01": signature("basn0g01", 1),
    "xs4n0g01": signature("basn0g01", 3),
    "xs7n0g01": signature("basn0g01", 6),
    "xcrn0g04": plain("basn0g04").replace(b"\n", b"\r\n"),
    "xlfn0g04": plain("basn0g04").replace(b"\r\n", b"\n"),
    "xhdn0g08": checksum("basn0g08", b"IHDR"),
    "xcsn0g01": checksum("basn0g01", b"IDAT"),
    "xc1n0g08": described("basn0g08", 9, 1),
    "xc9n2c08": described("basn2c08", 9, 9),
    "xd0n2c08": described("basn2c08", 8, 0),
    "xd3n2c08": described("basn2c08", 8, 3),
    "xd9n2c08": described("basn2c08", 8, 99),
    "xdtn0g01": png_of([part for part in chunks(plain("basn0g01")) if part[0] != b"IDAT"]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_one_is_a_clean_error(name: str) -> None:
    with pytest.raises(ImageError) as told:
        decode_photo(BROKEN[name])
    broken_signature = name.startswith("xs") or name in ("xcrn0g04", "xlfn0g04")
    assert told.value.code == ("not_an_image" if broken_signature else "broken_image")
