"""Files of many small parts: a decoder gets what their pixels need, and nothing of those that no photograph is made of."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from core.errors import ImageError
from core.images.decode import decode_photo
from core.images.sanitize import MAX_EXTRAS, MAX_LEAD, MAX_PIECES, jpeg_size, pixels_only
from tests.support.sample_images import SIGNATURE, chunks, encoded, photo, png_of, turned

PNG, JPEG = encoded(), encoded("JPEG")
FIRST, *REST = chunks(PNG)
*BODY, END = chunks(PNG)
TEXT = (b"zTXt", b"k\0\0" + zlib.compress(bytes(7_000_000)))


def animation(frames: int) -> tuple[bytes, bytes]:
    return b"acTL", struct.pack(">II", frames, 0)


@pytest.mark.parametrize(
    "data",
    [
        png_of([*BODY, *[TEXT] * 200, END]),  # where a decoder would still inflate them
        png_of([FIRST, animation(1), animation(1000), *REST]),
        png_of([FIRST, (b"gAMA", struct.pack(">I", 1)), *REST]),
        PNG + b"<html>",
    ],
    ids=["texts after the pixels", "a second animation", "gamma", "trailing bytes"],
)
def test_a_png_is_decoded_from_what_its_pixels_need(data: bytes) -> None:
    assert pixels_only(data) == PNG
    assert np.array_equal(decode_photo(data), photo())


@pytest.mark.parametrize("data", [PNG, JPEG, encoded("WEBP"), turned(6, "PNG")])
def test_a_plain_picture_is_not_copied(data: bytes) -> None:
    assert pixels_only(data) is data


@pytest.mark.parametrize(
    "data",
    [
        png_of([FIRST, *[(b"prVt", b"")] * MAX_EXTRAS, *REST]),
        png_of([*BODY, *[(b"tEXt", b"a\0b")] * MAX_EXTRAS, END]),
        png_of([FIRST, *[(b"eXIf", b"MM\0*")] * MAX_EXTRAS, *REST]),
        png_of([*BODY, *[(b"IDAT", b"")] * MAX_PIECES, END]),
        JPEG[:2] + b"\xff\xe0\0\x02" * MAX_LEAD + JPEG[2:],
        JPEG[:2] + b"\xff\xfe\0\x02" * MAX_LEAD + JPEG[2:],
        JPEG[:2] + b"\xff" * MAX_LEAD + JPEG[2:],
        JPEG[:20] + b"\xff\xd0" * MAX_LEAD + JPEG[20:],
        JPEG[:20] + b"x" * MAX_LEAD + JPEG[20:],
    ],
    ids=["private chunks", "texts", "exif", "empty pixels", "segments", "comments", "fill bytes", "lone markers", "junk"],
)
def test_more_parts_than_a_photograph_has_are_refused(data: bytes) -> None:
    with pytest.raises(ImageError, match="more than") as told:
        decode_photo(data)
    assert told.value.code == "broken_image"


def test_a_thousand_pieces_and_segments_are_a_picture() -> None:
    pixels = b"".join(data for kind, data in BODY if kind == b"IDAT")
    pieces = [(b"IDAT", pixels[place : place + 5]) for place in range(0, len(pixels), 5)]
    assert len(pieces) > 500 and np.array_equal(decode_photo(png_of([FIRST, *pieces, END])), photo())
    assert decode_photo(JPEG[:2] + b"\xff\xfe\0\x02" * 1000 + JPEG[2:]).shape == (40, 60, 3)


@pytest.mark.parametrize("data", [SIGNATURE, SIGNATURE + b"\xff" * 8, PNG[:-1], PNG[: len(PNG) // 2]])
def test_a_png_that_ends_within_a_chunk_is_cut_off(data: bytes) -> None:
    with pytest.raises(ImageError, match="cut off"):
        pixels_only(data)


def segment(kind: int, data: bytes = b"") -> bytes:
    return struct.pack(">BBH", 0xFF, kind, 2 + len(data)) + data


FRAME = JPEG[JPEG.index(b"\xff\xc0") :][:19]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"progressive": True},
        {"exif": b"Exif\0\0" + bytes(60_000)},
        {"comment": b"x" * 60_000},
        {"icc_profile": bytes(300_000)},
    ],
    ids=str,
)
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_the_size_of_a_jpeg_is_what_pillow_says(mode: str, options: dict) -> None:
    assert jpeg_size(encoded("JPEG", Image.fromarray(photo(31, 77)).convert(mode), **options)) == (77, 31)


@pytest.mark.parametrize(
    "data",
    [
        JPEG[:2] + FRAME * 2 + JPEG[2:],
        JPEG[:2] + segment(0xC8, bytes(100)) + JPEG[2:],
        JPEG[:2] + segment(0xF0, b"\xff" * 60_000) + JPEG[2:],
        JPEG[:2] + segment(0xDE, bytes(60_000)) + JPEG[2:],
        JPEG.replace(FRAME, b""),
        JPEG.replace(FRAME, FRAME[:5] + bytes(4) + FRAME[9:]),
        JPEG[:2] + b"\xff\xe0\0\1" + JPEG[2:],
        JPEG[:2] + segment(0xE0, bytes(60_000))[:100],
        JPEG[:4],
    ],
    ids=["two frames", "reserved", "a run of fill bytes", "hierarchical", "no frame", "0x0", "length of 1", "cut off", "bare"],
)
def test_a_jpeg_that_nobody_writes_is_broken(data: bytes) -> None:
    with pytest.raises(ImageError) as told:
        decode_photo(data)
    assert told.value.code == "broken_image"


def test_thousands_of_texts_are_passed_over() -> None:
    data = JPEG[:2] + segment(0xE1, b"Exif\0\0" + bytes(2000)) * 9000 + JPEG[2:]
    assert decode_photo(data).shape == (40, 60, 3)
