"""An image from standard input, and a result to standard output."""

from __future__ import annotations

import sys

from core.errors import InputError
from core.images.decode import has_image_signature, load_image

HEAD_BYTES = 1024  # enough to recognize a format
# An image of 16-bit RGBA without compression has 8 bytes per pixel; small ones may have metadata of this size.
MAX_BYTES_PER_PIXEL, MAX_METADATA_BYTES = 8, 64_000_000
STDIN_EXAMPLE = "expected a JPEG, PNG or WebP image, as in `cat street.jpg | python -m training predict MODEL -`"


def read_stdin(max_pixels: int) -> bytes:
    """Return the encoded image on standard input.

    No more is read than an image of `max_pixels` may have; of anything but an image, only the beginning.

    Raises:
        InputError: Standard input is closed, a terminal, empty or too large.
        ImageError: It is no image of a supported format.
    """
    if sys.stdin is None or sys.stdin.isatty():
        raise InputError(f"-: standard input is {'closed' if sys.stdin is None else 'a terminal'}; {STDIN_EXAMPLE}")
    head = sys.stdin.buffer.read(HEAD_BYTES)
    if not head:
        raise InputError(f"-: standard input is empty; {STDIN_EXAMPLE}")
    if not has_image_signature(head):
        load_image(head, name="standard input")
    max_bytes = MAX_BYTES_PER_PIXEL * max_pixels + MAX_METADATA_BYTES
    data = head + sys.stdin.buffer.read(max_bytes)
    if len(data) > max_bytes:
        raise InputError(f"-: standard input has more than {max_bytes:,} bytes; expected one image")
    return data


def check_stdout() -> None:
    """Raise InputError if standard output is closed or a terminal, where an image would not be readable."""
    if sys.stdout is None or sys.stdout.isatty():
        state = "closed" if sys.stdout is None else "a terminal"
        raise InputError(f"--out: standard output is {state}; redirect it, as in `--out - > mask.png`")


def write_stdout(data: bytes) -> None:
    """Write binary data to standard output. Raises OSError."""
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
