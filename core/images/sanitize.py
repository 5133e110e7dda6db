"""What an encoded picture is made of, counted before a decoder sees it: many small parts cost more than many pixels."""

from __future__ import annotations

import re

from core.errors import ImageError

PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
MAX_EXTRAS = 256  # chunks of a PNG beside its pixels: a decoder inflates each text and profile
MAX_PIECES = 100_000  # chunks that its pixels come in
MAX_LEAD = 10_000  # segments of a JPEG, and bytes between them, before its first scan
MAX_SCANS = 100  # of a JPEG: each takes as long as a picture, and fits into some bytes
KEPT = (b"IHDR", b"PLTE", b"tRNS", b"eXIf", b"IDAT", b"IEND")
# of JPEG segments: what lies between these (RSTn, FF00, reserved ones) is passed over without a length by decoders
MARKER = re.compile(rb"\xff[\xc0-\xcf\xd9-\xfe]")
ALONE = {0x00, 0x01, *range(0xD0, 0xDA)}  # second bytes that no length follows
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
UNKNOWN = {*range(0x02, 0xC0), 0xC8, 0xDE, 0xDF, *range(0xF0, 0xFE)}  # reserved, or of hierarchical pictures


def pixels_only(data: bytes) -> bytes:
    """What a decoder needs of a file: a PNG without the chunks that say nothing of its pixels, anything else as it is.

    libpng would inflate every text and profile, wherever it stands. Raises ImageError where a PNG has more chunks, or a
    JPEG more scans, than a photograph has.
    """
    if data.startswith(PNG):
        return _essential(data)
    if data.startswith(JPEG) and scans(data) > MAX_SCANS:
        raise ImageError(f"the picture comes in more than {MAX_SCANS} scans; save it anew")
    return data


def jpeg_size(data: bytes) -> tuple[int, int]:
    """Width and height of a JPEG, from the one frame header before its first scan; no other segment is looked into.

    Raises ImageError where there is none, or where it stands behind more segments than photographs have.
    """
    size, place = None, 2
    for _ in range(MAX_LEAD):
        if place + 4 > len(data):
            break
        kind, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        if data[place] != 0xFF or kind == 0xFF:  # what decoders skip byte by byte
            place += 1
        elif kind in ALONE:
            place += 2
        elif kind == 0xDA:
            if size is None or 0 in size:
                break
            return size
        elif kind in UNKNOWN or length < 2 or (kind in FRAMES and size):
            raise ImageError("the picture is damaged, or of a kind of JPEG that nobody reads; expected a whole one")
        else:
            if kind in FRAMES:
                height, width = data[place + 5 : place + 7], data[place + 7 : place + 9]
                size = int.from_bytes(width, "big"), int.from_bytes(height, "big")
            place += 2 + length
    else:
        raise ImageError(f"the picture has more than {MAX_LEAD:,} segments before its first scan; save it anew")
    raise ImageError("the picture is damaged: no size and no pixels; expected a whole JPEG")


def scans(data: bytes) -> int:
    """The scans of a JPEG, those of thumbnails and of further pictures after its end left out.

    As soon as there are more than MAX_SCANS, that is what is told.
    """
    if data.count(b"\xff\xda") <= MAX_SCANS:
        return 0
    found, place = 0, 2
    while found <= MAX_SCANS and (marker := MARKER.search(data, place)):
        place = marker.end()
        kind = data[place - 1]
        if kind == 0xD9:  # the end
            break
        found += kind == 0xDA
        place += int.from_bytes(data[place : place + 2], "big")
    return found


def _essential(data: bytes) -> bytes:
    kept, extras, pieces = [data[:8]], 0, 0
    place, begin, kind = 8, 8, b""  # `begin`: of a run of chunks that are kept
    while kind != b"IEND":
        kind, end = data[place + 4 : place + 8], place + 12 + int.from_bytes(data[place : place + 4], "big")
        if end > len(data):
            raise ImageError("the picture is cut off; expected a whole PNG")
        pieces += kind == b"IDAT"
        extras += kind != b"IDAT"
        if kind not in KEPT:
            kept.append(data[begin:place])
            begin = end
        if extras > MAX_EXTRAS or pieces > MAX_PIECES:
            raise ImageError(
                f"the picture has more than {MAX_EXTRAS} chunks beside its pixels, or {MAX_PIECES:,} of them; save it anew"
            )
        place = end
    kept.append(data[begin:place])
    return data if len(kept) == 2 and place == len(data) else b"".join(kept)
