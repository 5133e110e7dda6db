"""The uploaded images: multipart parts named `file`, or the body itself; limits are enforced while the bytes arrive."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from fastapi import Request

from core.images.decode import VIDEO_HINT
from service.api.batch import describe_position, sanitize_file_name
from service.api.multipart import MAX_PARTS, TooManyPartsError, parse_boundary, parse_form
from service.api.problems import ProblemError
from service.api.schemas import SegmentParameters

BODY_TIMEOUT_S = 120.0  # for the whole body
CHUNK_TIMEOUT_S = 10.0  # between two chunks

USAGE = "send `-F file=@street.jpg`, or the image itself with `-H 'Content-Type: image/jpeg' --data-binary @street.jpg`"


class Upload(NamedTuple):
    """An encoded image, and its sanitized file name, empty if it is the body itself."""

    name: str
    content: bytes


async def read_uploads(
    request: Request,
    max_bytes: int,
    reserve_bytes: Callable[[int], None] = lambda _: None,
) -> list[Upload]:
    """Return the encoded images of a request, at least one, in the order of the parts.

    Args:
        request: A request whose body has not been read.
        max_bytes: Maximum size of the body.
        reserve_bytes: Called with the size of every chunk; may raise ProblemError.

    Raises:
        ProblemError: 400, 408, 413, 415 or 422, or an error of `reserve_bytes`.
    """
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise ProblemError("content_encoding", "Content-Encoding is not supported; send the image without it")
    content_type = request.headers.get("content-type", "")
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type == "multipart/form-data":
        try:
            parse_boundary(content_type)  # Without a valid one, the body need not be sent.
        except ValueError as error:
            raise _malformed_body_error(error) from None
        return _extract_files(content_type, await read_body(request, max_bytes, reserve_bytes))
    if media_type.startswith("video/"):
        raise ProblemError("unsupported_media_type", f"this is the content type of a video, expected an image; {VIDEO_HINT}")
    if media_type and not media_type.startswith("image/") and media_type != "application/octet-stream":
        raise ProblemError("unsupported_media_type", f"this content type is not supported; {USAGE}")
    body = await read_body(request, max_bytes, reserve_bytes)
    if not body:
        raise ProblemError("no_file", f"the request has no body; {USAGE}")
    return [Upload("", body)]


async def read_body(request: Request, max_bytes: int, reserve_bytes: Callable[[int], None] = lambda _: None) -> bytes:
    """Return the whole body. Raises ProblemError 413 as soon as it exceeds the limit, and 408 if it arrives too slowly."""
    too_large = ProblemError(
        "too_large", f"the request is larger than {max_bytes:,} bytes; send a smaller or more strongly compressed image"
    )
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > max_bytes:
        raise too_large
    chunks: list[bytes] = []
    size, now = 0, asyncio.get_running_loop().time
    deadline = now() + BODY_TIMEOUT_S
    try:
        async with asyncio.timeout(CHUNK_TIMEOUT_S) as timeout:
            async for chunk in request.stream():
                size += len(chunk)
                if size > max_bytes:
                    raise too_large
                reserve_bytes(len(chunk))
                chunks.append(chunk)
                timeout.reschedule(min(deadline, now() + CHUNK_TIMEOUT_S))
    except ProblemError:
        chunks.clear()  # The traceback of the exception refers to them until the response has been sent.
        raise
    except TimeoutError:
        reason = f"no byte of the body arrived for {CHUNK_TIMEOUT_S:g} s, or it was incomplete after {BODY_TIMEOUT_S:g} s"
        raise ProblemError("request_timeout", f"{reason}; send it faster", {"Connection": "close"}) from None
    return b"".join(chunks)


def _extract_files(content_type: str, body: bytes) -> list[Upload]:
    """Return the files of the parts named `file`. Raises ProblemError."""
    try:
        parts = [(part, part.disposition()) for part in parse_form(content_type, body)]
    except TooManyPartsError as error:
        raise ProblemError("too_many_files", f"{error}; send at most {MAX_PARTS} images in one request") from None
    except ValueError as error:
        raise _malformed_body_error(error) from None
    names = {disposition.get(b"name", b"").decode("latin-1") for _, disposition in parts}
    if parameters := names & SegmentParameters.model_fields.keys():
        raise ProblemError(
            "invalid_parameter",
            f"{', '.join(sorted(parameters))}: sent as a form field; send it in the query string,"
            " for example /segment?model=NAME&output=json",
        )
    files = [(part, disposition) for part, disposition in parts if b"filename" in disposition]
    uploads = [
        Upload(sanitize_file_name(disposition[b"filename"].decode(errors="replace")), part.content())
        for part, disposition in files
        if disposition.get(b"name") == b"file"
    ]
    if not uploads:
        raise ProblemError("no_file", f"the form has no file in a part named `file`; {USAGE}")
    if len(files) > len(uploads):
        raise ProblemError("too_many_files", "the form has a file in a part of another name; name all parts with images `file`")
    for number, upload in enumerate(uploads, 1):
        if not upload.content:
            image = describe_position(number, len(uploads)) if len(uploads) > 1 else "the file in the part `file`"
            raise ProblemError("empty_file", f"{image} is empty; {USAGE}")
    return uploads


def _malformed_body_error(reason: ValueError) -> ProblemError:
    return ProblemError("malformed_body", f"the multipart body is invalid ({reason}); {USAGE}")
