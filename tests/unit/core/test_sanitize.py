"""Tests of core.images.sanitize: a decoder gets only the parts that the pixels need, and few of them."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from core.errors import ImageError
from core.images.decode import decode_image
from core.images.sanitize import (
    MAX_ANCILLARY_CHUNKS,
    MAX_HEADER_SEGMENTS,
    MAX_IDAT_CHUNKS,
    read_jpeg_header,
    strip_ancillary_chunks,
)
from tests.support.sample_images import PNG_SIGNATURE, build_png, encode_image, png_chunks, rotated_image, sample_image

PNG, JPEG = encode_image(), encode_image("JPEG")
IHDR, *AFTER_IHDR = png_chunks(PNG)
*BEFORE_IEND, IEND = png_chunks(PNG)
TEXT_BOMB = (b"zTXt", b"k\0\0" + zlib.compress(bytes(7_000_000)))
SOF = JPEG[JPEG.index(b"\xff\xc0") :][:19]  # the start-of-frame segment, which holds the size


def animation_control(frames: int) -> tuple[bytes, bytes]:
    """Return the acTL chunk of an animated PNG."""
    return b"acTL", struct.pack(">II", frames, 0)


def jpeg_segment(marker: int, data: bytes = b"") -> bytes:
    return struct.pack(">BBH", 0xFF, marker, 2 + len(data)) + data


@pytest.mark.parametrize(
    "data",
    [
        build_png([*BEFORE_IEND, *[TEXT_BOMB] * 200, IEND]),  # libpng would inflate text after the pixels too.
        build_png([IHDR, animation_control(1), animation_control(1000), *AFTER_IHDR]),
        build_png([IHDR, (b"gAMA", struct.pack(">I", 1)), *AFTER_IHDR]),
        PNG + b"<html>",
    ],
    ids=["text bombs after pixels", "second acTL", "gamma", "trailing bytes"],
)
def test_ancillary_png_chunks_are_removed(data: bytes) -> None:
    assert strip_ancillary_chunks(data) == PNG
    assert np.array_equal(decode_image(data), sample_image())


@pytest.mark.parametrize(
    "data", [PNG, JPEG, encode_image("WEBP"), rotated_image(6, "PNG")], ids=["png", "jpeg", "webp", "png with exif"]
)
def test_clean_image_is_not_copied(data: bytes) -> None:
    assert strip_ancillary_chunks(data) is data


@pytest.mark.parametrize(
    "data",
    [
        build_png([IHDR, *[(b"prVt", b"")] * MAX_ANCILLARY_CHUNKS, *AFTER_IHDR]),
        build_png([*BEFORE_IEND, *[(b"tEXt", b"a\0b")] * MAX_ANCILLARY_CHUNKS, IEND]),
        build_png([IHDR, *[(b"eXIf", b"MM\0*")] * MAX_ANCILLARY_CHUNKS, *AFTER_IHDR]),
        build_png([*BEFORE_IEND, *[(b"IDAT", b"")] * MAX_IDAT_CHUNKS, IEND]),
        JPEG[:2] + b"\xff\xe0\0\x02" * MAX_HEADER_SEGMENTS + JPEG[2:],
        JPEG[:2] + b"\xff\xfe\0\x02" * MAX_HEADER_SEGMENTS + JPEG[2:],
        JPEG[:2] + b"\xff" * MAX_HEADER_SEGMENTS + JPEG[2:],
        JPEG[:20] + b"\xff\xd0" * MAX_HEADER_SEGMENTS + JPEG[20:],
        JPEG[:20] + b"x" * MAX_HEADER_SEGMENTS + JPEG[20:],
    ],
    ids=[
        "private chunks", "text chunks", "exif chunks", "empty IDAT chunks", "APP0 segments", "comments", "fill bytes",
        "standalone markers", "junk bytes",
    ],
)  # fmt: skip
def test_too_many_parts_are_rejected(data: bytes) -> None:
    with pytest.raises(ImageError, match="more than") as error:
        decode_image(data)
    assert error.value.code == "corrupt_image"


def test_hundreds_of_idat_chunks_are_accepted() -> None:
    pixels = b"".join(data for kind, data in BEFORE_IEND if kind == b"IDAT")
    chunks = [(b"IDAT", pixels[offset : offset + 5]) for offset in range(0, len(pixels), 5)]
    assert len(chunks) > 500
    assert np.array_equal(decode_image(build_png([IHDR, *chunks, IEND])), sample_image())


@pytest.mark.parametrize(
    ("segment", "count"),
    [(jpeg_segment(0xFE), 1000), (jpeg_segment(0xE1, b"Exif\0\0" + bytes(2000)), 9000)],
    ids=["comments", "exif"],
)
def test_thousands_of_jpeg_segments_are_accepted(segment: bytes, count: int) -> None:
    assert decode_image(JPEG[:2] + segment * count + JPEG[2:]).shape == (40, 60, 3)


@pytest.mark.parametrize(
    "data",
    [PNG_SIGNATURE, PNG_SIGNATURE + b"\xff" * 8, PNG[:-1], PNG[: len(PNG) // 2]],
    ids=["signature only", "header", "last byte", "half"],
)
def test_png_that_ends_within_a_chunk_is_truncated(data: bytes) -> None:
    with pytest.raises(ImageError, match="truncated"):
        strip_ancillary_chunks(data)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"progressive": True},
        {"exif": b"Exif\0\0" + bytes(60_000)},
        {"comment": b"x" * 60_000},
        {"icc_profile": bytes(300_000)},
    ],
    ids=["baseline", "progressive", "exif", "comment", "color profile"],
)
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpeg_header_matches_pillow(mode: str, options: dict[str, Any]) -> None:
    header = read_jpeg_header(encode_image("JPEG", Image.fromarray(sample_image(31, 77)).convert(mode), **options))
    assert header == (77, 31, len(Image.new(mode, (1, 1)).getbands()), 1)


@pytest.mark.parametrize(
    "data",
    [
        JPEG[:2] + SOF * 2 + JPEG[2:],
        JPEG[:2] + jpeg_segment(0xC8, bytes(100)) + JPEG[2:],
        JPEG[:2] + jpeg_segment(0xF0, b"\xff" * 60_000) + JPEG[2:],
        JPEG[:2] + jpeg_segment(0xDE, bytes(60_000)) + JPEG[2:],
        JPEG.replace(SOF, b""),
        JPEG.replace(SOF, SOF[:5] + bytes(4) + SOF[9:]),
        JPEG[:2] + b"\xff\xe0\0\1" + JPEG[2:],
        JPEG[:2] + jpeg_segment(0xE0, bytes(60_000))[:100],
        JPEG[:4],
    ],
    ids=[
        "two frames", "reserved marker", "fill bytes in segment", "hierarchical", "no frame", "0x0", "segment length 1",
        "truncated segment", "no segments",
    ],
)  # fmt: skip
def test_malformed_jpeg_is_corrupt(data: bytes) -> None:
    with pytest.raises(ImageError) as error:
        decode_image(data)
    assert error.value.code == "corrupt_image"
