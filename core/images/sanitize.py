"""Check the structure of an encoded image before a decoder sees it: many small parts can cost more than many pixels.

Source: W3C PNG specification, section 5 (chunks); ITU-T T.81, annex B (JPEG segments and markers).
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from core.errors import ImageError

PNG_SIGNATURE, JPEG_SIGNATURE = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
MAX_ANCILLARY_CHUNKS = 256  # PNG chunks that hold no pixels; a decoder inflates each text and each color profile
MAX_IDAT_CHUNKS = 100_000  # PNG chunks that hold pixels
MAX_HEADER_SEGMENTS = 10_000  # JPEG segments, and bytes between segments, before the first scan
MAX_SCANS = 100  # JPEG scans: each takes as long to decode as a whole image, and fits into a few bytes
KEPT_CHUNKS = (b"IHDR", b"PLTE", b"eXIf", b"IDAT", b"IEND")
# JPEG markers that a segment length follows. Decoders skip the bytes between them (RSTn, FF00 and reserved markers) as
# data without a length.
MARKER = re.compile(rb"\xff[\xc0-\xcf\xd9-\xfe]")
STANDALONE_MARKERS = {0x00, 0x01, *range(0xD0, 0xDA)}  # second bytes of markers that no length follows
SOF_MARKERS = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # start of frame: holds the image size
ORIENTATION_TAG = 0x0112
UNSUPPORTED_MARKERS = {*range(0x02, 0xC0), 0xC8, 0xDE, 0xDF, *range(0xF0, 0xFE)}  # reserved or hierarchical JPEG


def strip_ancillary_chunks(data: bytes) -> bytes:
    """Return a PNG without the chunks that do not affect its pixels, and any other file unchanged.

    libpng would inflate every text and color profile, wherever it is in the file.

    Raises:
        ImageError: A PNG has more chunks, or a JPEG more scans, than an image from a camera or an editor has.
    """
    if data.startswith(PNG_SIGNATURE):
        return _strip_png(data)
    if data.startswith(JPEG_SIGNATURE) and count_scans(data) > MAX_SCANS:
        raise ImageError(f"the image has more than {MAX_SCANS} scans; save it again as a baseline JPEG")
    return data


class JpegHeader(NamedTuple):
    """What the segments before the first scan of a JPEG state."""

    width: int
    height: int
    channels: int  # 1 gray, 3 color, 4 CMYK
    orientation: int  # EXIF orientation, 1..8; 1 is upright


def read_jpeg_header(data: bytes) -> JpegHeader:
    """Read the only frame header and the EXIF orientation before the first scan; skip every other segment.

    Raises:
        ImageError: There is no frame header, or more segments precede it than a camera or an editor writes.
    """
    width = height = channels = orientation = 0
    offset = 2
    for _ in range(MAX_HEADER_SEGMENTS):
        if offset + 4 > len(data):
            break
        kind, length = data[offset + 1], int.from_bytes(data[offset + 2 : offset + 4], "big")
        if data[offset] != 0xFF or kind == 0xFF:  # decoders skip such bytes one by one
            offset += 1
        elif kind in STANDALONE_MARKERS:
            offset += 2
        elif kind == 0xDA:  # start of scan
            if not width or not height:
                break
            return JpegHeader(width, height, channels, orientation or 1)
        elif kind in UNSUPPORTED_MARKERS or length < 2 or (kind in SOF_MARKERS and channels):
            raise ImageError("the image is damaged or an unsupported kind of JPEG; expected a baseline or progressive JPEG")
        else:
            segment = data[offset + 4 : offset + 2 + length]
            if kind in SOF_MARKERS:
                height, width = int.from_bytes(segment[1:3], "big"), int.from_bytes(segment[3:5], "big")
                channels = segment[5] if len(segment) > 5 else 0
            elif kind == 0xE1 and segment.startswith(b"Exif\0\0") and not orientation:
                orientation = _exif_orientation(segment[6:])
            offset += 2 + length
    else:
        raise ImageError(
            f"the image has more than {MAX_HEADER_SEGMENTS:,} segments before its first scan; save it again without metadata"
        )
    raise ImageError("the image is damaged: it has no size or no pixels; expected a complete JPEG")


def _exif_orientation(tiff: bytes) -> int:
    """Return the tag Orientation (0x0112) of the first directory of EXIF data, 1 if it is missing or invalid.

    Source: CIPA DC-008 (EXIF 2.32), section 4.6.
    """
    order: Literal["big", "little"] = "big" if tiff.startswith(b"MM") else "little"
    directory = int.from_bytes(tiff[4:8], order)
    entries = int.from_bytes(tiff[directory : directory + 2], order)
    for start in range(directory + 2, min(directory + 2 + 12 * entries, len(tiff) - 11), 12):
        if int.from_bytes(tiff[start : start + 2], order) == ORIENTATION_TAG:
            value = int.from_bytes(tiff[start + 8 : start + 10], order)
            return value if 1 <= value <= 8 else 1
    return 1


def count_scans(data: bytes) -> int:
    """Return the number of scans of a JPEG, without those of thumbnails and of further images after its end.

    Counting stops at MAX_SCANS + 1, and the result is 0 if there can't be more than MAX_SCANS.
    """
    if data.count(b"\xff\xda") <= MAX_SCANS:
        return 0
    scans, offset = 0, 2
    while scans <= MAX_SCANS and (marker := MARKER.search(data, offset)):
        offset = marker.end()
        kind = data[offset - 1]
        if kind == 0xD9:  # end of image
            break
        scans += kind == 0xDA
        offset += int.from_bytes(data[offset : offset + 2], "big")
    return scans


def _strip_png(data: bytes) -> bytes:
    """Return the signature and the KEPT_CHUNKS of a PNG up to IEND; `data` itself if nothing was removed."""
    parts, ancillary_chunks, idat_chunks = [data[:8]], 0, 0
    offset, run_start, kind = 8, 8, b""  # run_start: offset of the current run of kept chunks
    while kind != b"IEND":
        kind, end = data[offset + 4 : offset + 8], offset + 12 + int.from_bytes(data[offset : offset + 4], "big")
        if end > len(data):
            raise ImageError("the image is truncated; expected a complete PNG")
        idat_chunks += kind == b"IDAT"
        ancillary_chunks += kind != b"IDAT"
        if kind not in KEPT_CHUNKS:
            parts.append(data[run_start:offset])
            run_start = end
        if ancillary_chunks > MAX_ANCILLARY_CHUNKS or idat_chunks > MAX_IDAT_CHUNKS:
            raise ImageError(
                f"the image has more than {MAX_ANCILLARY_CHUNKS} chunks without pixels, or more than {MAX_IDAT_CHUNKS:,}"
                " with pixels; save it again without metadata"
            )
        offset = end
    parts.append(data[run_start:offset])
    return data if len(parts) == 2 and offset == len(data) else b"".join(parts)
