"""Parts of a multipart form that is in memory (RFC 7578), each copied once."""

from __future__ import annotations

from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

MOST = 16  # parts
BOUNDARY = 70  # bytes (RFC 2046, section 5.1.1); comparing longer ones can take minutes
TAIL = 4096  # bytes, in which the last boundary mostly is


@dataclass
class Part:
    """A part: its headers by lower-case name, and the pieces of what it holds."""

    headers: dict[bytes, bytes] = field(default_factory=dict)
    pieces: list[bytes] = field(default_factory=list)

    def disposition(self) -> dict[bytes, bytes]:
        """What Content-Disposition tells: `name`, and `filename` where it is a file."""
        return parse_options_header(self.headers.get(b"content-disposition", b""))[1]

    def content(self) -> bytes:
        """What the part holds."""
        return self.pieces[0] if len(self.pieces) == 1 else b"".join(self.pieces)


def parse_form(content_type: str, body: bytes) -> list[Part]:
    """The parts of a body. Raises ValueError that says what is wrong with it."""
    boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
    if not boundary:
        raise ValueError("no boundary is told")
    if len(boundary) > BOUNDARY:
        raise ValueError(f"its boundary is longer than {BOUNDARY} bytes")
    last = b"--" + boundary + b"--"
    if last not in body[-TAIL:] and last not in body:  # not from the end: Python's search backwards is quadratic
        raise ValueError("it is cut off: its last boundary is missing")
    if body.count(b"\r\n--" + boundary) > MOST + 1:  # content has no such lines; to try each would take seconds
        raise ValueError(f"it has more than {MOST} parts")
    parts: list[Part] = []
    name, value = bytearray(), bytearray()

    def begin() -> None:
        if len(parts) == MOST:
            raise ValueError(f"it has more than {MOST} parts")
        parts.append(Part())

    def header_ends() -> None:
        parts[-1].headers[bytes(name).lower()] = bytes(value)
        name.clear()
        value.clear()

    parser = MultipartParser(
        boundary,
        {
            "on_part_begin": begin,
            "on_header_field": lambda data, start, end: name.extend(data[start:end]),
            "on_header_value": lambda data, start, end: value.extend(data[start:end]),
            "on_header_end": header_ends,
            "on_part_data": lambda data, start, end: parts[-1].pieces.append(data[start:end]),
        },
    )
    try:
        parser.write(body)
        parser.finalize()
    except FormParserError:  # whose words would echo what came
        raise ValueError("its parts or their headers are not as RFC 7578 wants them") from None
    return parts
