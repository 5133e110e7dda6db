"""Parsing of multipart forms (RFC 7578) that are in memory; the content of each part is copied once."""

from __future__ import annotations

from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

MAX_PARTS = 16
MAX_BOUNDARY_BYTES = 70  # RFC 2046, section 5.1.1; comparing longer boundaries can take minutes.
TAIL_BYTES = 4096  # The closing boundary is nearly always in the last bytes.


class TooManyPartsError(ValueError):
    """A form has more than `MAX_PARTS` parts."""

    def __init__(self) -> None:
        super().__init__(f"the form has more than {MAX_PARTS} parts")


@dataclass
class Part:
    """A part of a form: its headers by lowercase name, and the chunks of its content."""

    headers: dict[bytes, bytes] = field(default_factory=dict)
    chunks: list[bytes] = field(default_factory=list)

    def disposition(self) -> dict[bytes, bytes]:
        """Return the parameters of Content-Disposition: `name`, and `filename` if the part is a file."""
        return parse_options_header(self.headers.get(b"content-disposition", b""))[1]

    def content(self) -> bytes:
        """Return the content of the part."""
        return self.chunks[0] if len(self.chunks) == 1 else b"".join(self.chunks)


def parse_boundary(content_type: str) -> bytes:
    """Return the boundary that a Content-Type header declares. Raises ValueError as `parse_form` does."""
    boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
    if not boundary:
        raise ValueError("the Content-Type header has no boundary")
    if len(boundary) > MAX_BOUNDARY_BYTES:
        raise ValueError(f"the boundary is longer than {MAX_BOUNDARY_BYTES} bytes")
    return boundary


def parse_form(content_type: str, body: bytes) -> list[Part]:
    """Return the parts of a form.

    Raises:
        TooManyPartsError: There are more than `MAX_PARTS`.
        ValueError: The form is invalid; the message is the reason and contains no input.
    """
    boundary = parse_boundary(content_type)
    closing = b"--" + boundary + b"--"
    if closing not in body[-TAIL_BYTES:] and closing not in body:  # `rfind` is not used: its worst case is quadratic.
        raise ValueError("the closing boundary is missing")
    if body.count(b"\r\n--" + boundary) > MAX_PARTS + 1:  # Counted first, because parsing many parts takes seconds.
        raise TooManyPartsError
    parts: list[Part] = []
    name, value = bytearray(), bytearray()

    def on_part_begin() -> None:
        if len(parts) == MAX_PARTS:
            raise TooManyPartsError
        parts.append(Part())

    def on_header_end() -> None:
        parts[-1].headers[bytes(name).lower()] = bytes(value)
        name.clear()
        value.clear()

    parser = MultipartParser(
        boundary,
        {
            "on_part_begin": on_part_begin,
            "on_header_field": lambda data, start, end: name.extend(data[start:end]),
            "on_header_value": lambda data, start, end: value.extend(data[start:end]),
            "on_header_end": on_header_end,
            "on_part_data": lambda data, start, end: parts[-1].chunks.append(data[start:end]),
        },
    )
    try:
        parser.write(body)
        parser.finalize()
    except FormParserError:  # Its message contains input.
        raise ValueError("the parts or their headers do not conform to RFC 7578") from None
    return parts
