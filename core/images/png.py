"""Label maps as PNG files, written directly: one byte a pixel, no filter, and a deflate of its own speed."""

from __future__ import annotations

import struct

import numpy as np
import numpy.typing as npt

try:
    from isal.isal_zlib import compress, crc32
except ImportError:  # not built for every machine
    from zlib import compress, crc32

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, INDEXED = 0, 3  # colour types (W3C PNG, 11.2.1)


def png(pixels: npt.NDArray[np.uint8], palette: npt.NDArray[np.uint8] | None = None) -> bytes:
    """(H, W) uint8 as an 8-bit PNG: indices into the palette (256, 3) uint8, grey where there is none.

    No filter: label maps are runs of equal bytes, which filters (made for photographs) do not shorten.
    """
    height, width = pixels.shape
    lines = np.zeros((height, width + 1), np.uint8)  # each begins with its filter type, 0
    lines[:, 1:] = pixels
    header = struct.pack(">IIBBBBB", width, height, 8, GREY if palette is None else INDEXED, 0, 0, 0)
    chunks = [(b"IHDR", header)]
    if palette is not None:
        chunks.append((b"PLTE", palette.tobytes()))
    chunks += [(b"IDAT", compress(lines, 1)), (b"IEND", b"")]
    return SIGNATURE + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc32(data, crc32(kind)))
