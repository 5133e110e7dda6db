"""A reply that is sent as fast as it is read, and counts among the bytes inside until it has been handed over."""

from __future__ import annotations

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.inference.admission import Admission

PIECE = 65_536  # bytes: of more at once nobody would wait for the reader


class Download(Response):
    """Content in pieces."""

    def __init__(self, content: bytes, media_type: str, headers: dict[str, str], admission: Admission) -> None:
        super().__init__(content, media_type=media_type, headers=headers)
        self.admission = admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it (ASGI)."""
        with self.admission.replying(len(self.body)):
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            for begin in range(0, max(1, len(self.body)), PIECE):
                piece, more = self.body[begin : begin + PIECE], begin + PIECE < len(self.body)
                await send({"type": "http.response.body", "body": piece, "more_body": more})
