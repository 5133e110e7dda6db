"""The photograph of a request: one multipart part named `file`, or the body itself; bounded as the bytes arrive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable

from fastapi import Request

from service.form import parse_form
from service.problems import Problem

# a client that is still sending would see a reset instead of the reply, so the rest is read and thrown away
DRAIN_BYTES = 64_000_000
DRAIN_SECONDS = 5

HOW = "send `-F file=@photo.jpg`, or the picture itself with `-H 'Content-Type: image/jpeg' --data-binary @photo.jpg`"


async def read_picture(request: Request, max_bytes: int, require_room: Callable[[], None] = lambda: None) -> bytes:
    """The encoded picture of a request. Raises Problem: 400, 413, 415 or 422, and what `require_room` raises, at once."""
    try:
        require_room()
    except Problem:
        await _drain(request.stream())
        raise
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Problem("content_encoding", "a Content-Encoding is not taken; send the picture as it is")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return _from_form(request.headers["content-type"], await read_body(request, max_bytes))
    if kind and not kind.startswith("image/") and kind != "application/octet-stream":
        raise Problem("unsupported_media_type", f"this content type is not taken; {HOW}")
    data = await read_body(request, max_bytes)
    if not data:
        raise Problem("no_file", f"the request has no body; {HOW}")
    return data


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The whole body. Raises Problem 413 as soon as it is known to be over the limit."""
    over = Problem("too_large", f"the request is larger than {max_bytes:,} bytes; send a smaller or more compressed picture")
    declared = request.headers.get("content-length", "")
    stream = request.stream()
    if declared.isdigit() and int(declared) > max_bytes:
        await _drain(stream)
        raise over
    chunks: list[bytes] = []
    size = 0
    async for chunk in stream:
        size += len(chunk)
        if size > max_bytes:
            chunks.clear()
            await _drain(stream)
            raise over
        chunks.append(chunk)
    return b"".join(chunks)


async def _drain(stream: AsyncGenerator[bytes]) -> None:
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
    data = [part.content() for part, told in files if told.get(b"name") == b"file"]
    if not data:
        raise Problem("no_file", f"the form has no file in a part named `file`; {HOW}")
    if not data[0]:
        raise Problem("empty_file", f"the file in the part `file` is empty; {HOW}")
    return data[0]
