"""Responses to requests whose body the application does not read, or not completely."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_DISCARDED_BYTES = 64_000_000
DISCARD_TIMEOUT_S = 5.0


class UnreadBodyMiddleware:
    """Send the response first, then read and discard the rest of the body.

    If the server closed the connection while a client still sends, the client would see a reset instead of the response.

    A client that sends `Expect: 100-continue` waits for `100 Continue` or a response before it sends the body; the server
    sends the former when the application begins to read. If the application does not, the client may send the body or not,
    and the next bytes could be those of the body or of another request: so the connection is closed after the response.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request (ASGI)."""
        if scope["type"] != "http" or not _has_body(headers := Headers(scope=scope)):
            await self.app(scope, receive, send)
            return
        awaits_continue = "100-continue" in headers.get("expect", "").lower()
        is_complete = False

        async def receive_body() -> Message:
            nonlocal awaits_continue, is_complete
            awaits_continue = False
            message = await receive()
            is_complete = not message.get("more_body", False)  # also if the client has disconnected
            return message

        async def discard_body() -> None:
            size = 0
            while not is_complete and size <= MAX_DISCARDED_BYTES:
                size += len((await receive_body()).get("body", b""))

        async def send_response(message: Message) -> None:
            if message["type"] == "http.response.start" and awaits_continue:
                MutableHeaders(scope=message)["Connection"] = "close"
            if message["type"] == "http.response.body" and not message.get("more_body", False) and not is_complete:
                await send({**message, "more_body": True})  # The server may close the connection at the end of the response.
                with suppress(TimeoutError):
                    async with asyncio.timeout(DISCARD_TIMEOUT_S):
                        await discard_body()
                message = {"type": "http.response.body"}
            await send(message)

        await self.app(scope, receive_body, send_response)


def _has_body(headers: Headers) -> bool:
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
