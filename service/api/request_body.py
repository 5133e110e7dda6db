"""The photograph of a request: one multipart part named `file`, or the body itself; bounded as the bytes arrive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable

from fastapi import Request

from service.api.multipart import parse_form
from service.api.problems import Problem

# a client that is still sending would see a reset instead of the reply, so the rest is read and thrown away
DRAIN_BYTES = 64_000_000
DRAIN_SECONDS = 5
BODY_SECONDS = 120.0  # for a whole body,
CHUNK_SECONDS = 10.0  # and for its next bytes

PARAMETERS = {"model", "output", "format", "resolution", "flip"}
HOW = "send `-F file=@photo.jpg`, or the picture itself with `-H 'Content-Type: image/jpeg' --data-binary @photo.jpg`"


async def read_picture(
    request: Request,
    max_bytes: int,
    require_room: Callable[[], None] = lambda: None,
    hold: Callable[[int], None] = lambda _: None,
) -> bytes:
    """The encoded picture of a request. Raises Problem: 400, 408, 413, 415 or 422, what `require_room` raises, at once, and
    what `hold` raises, which is told the bytes as they come."""
    try:
        require_room()
    except Problem:
        await drain(request.stream())
        raise
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Problem("content_encoding", "a Content-Encoding is not taken; send the picture as it is")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return _from_form(request.headers["content-type"], await read_body(request, max_bytes, hold))
    if kind and not kind.startswith("image/") and kind != "application/octet-stream":
        raise Problem("unsupported_media_type", f"this content type is not taken; {HOW}")
    data = await read_body(request, max_bytes, hold)
    if not data:
        raise Problem("no_file", f"the request has no body; {HOW}")
    return data


async def read_body(request: Request, max_bytes: int, hold: Callable[[int], None] = lambda _: None) -> bytes:
    """The whole body. Raises Problem 413 as soon as it is known to be over the limit, and 408 where it comes too slowly."""
    over = Problem("too_large", f"the request is larger than {max_bytes:,} bytes; send a smaller or more compressed picture")
    declared = request.headers.get("content-length", "")
    stream = request.stream()
    if declared.isdigit() and int(declared) > max_bytes:
        await drain(stream)
        raise over
    chunks: list[bytes] = []
    size, now = 0, asyncio.get_running_loop().time
    end = now() + BODY_SECONDS
    try:
        async with asyncio.timeout(CHUNK_SECONDS) as late:
            async for chunk in stream:
                size += len(chunk)
                if size > max_bytes:
                    raise over
                hold(len(chunk))
                chunks.append(chunk)
                late.reschedule(min(end, now() + CHUNK_SECONDS))
    except Problem:
        chunks.clear()
        await drain(stream)
        raise
    except TimeoutError:
        slow = f"no byte of the body for {CHUNK_SECONDS:g} s, or not all of it in {BODY_SECONDS:g} s; send it faster"
        raise Problem("slow_body", slow, {"Connection": "close"}) from None
    return b"".join(chunks)


async def drain(stream: AsyncGenerator[bytes]) -> None:
    """Read what still comes, and throw it away: at most DRAIN_BYTES in DRAIN_SECONDS."""
    size = 0
    try:
        async with asyncio.timeout(DRAIN_SECONDS):
            async for chunk in stream:
                size += len(chunk)
                if size > DRAIN_BYTES:
                    return
    except TimeoutError:
        return


def _from_form(content_type: str, body: bytes) -> bytes:
    try:
        parts = [(part, part.disposition()) for part in parse_form(content_type, body)]
    except ValueError as error:
        raise Problem("malformed_body", f"the multipart body can't be read ({error}); {HOW}") from None
    files = [(part, told) for part, told in parts if b"filename" in told]
    if len(files) > 1:
        raise Problem("too_many_files", f"{len(files)} files came; expected one, in the part `file`")
    words = {told.get(b"name", b"").decode("latin-1") for _, told in parts} & PARAMETERS
    if words:
        raise Problem("invalid_parameter", f"{', '.join(sorted(words))}: came in the form; it belongs in the address, as in"
                      " /segment?model=NAME&output=json")  # fmt: skip
    data = [part.content() for part, told in files if told.get(b"name") == b"file"]
    if not data:
        raise Problem("no_file", f"the form has no file in a part named `file`; {HOW}")
    if not data[0]:
        raise Problem("empty_file", f"the file in the part `file` is empty; {HOW}")
    return data[0]
