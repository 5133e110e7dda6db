"""Responses that are neither JSON nor problems."""

from __future__ import annotations

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.inference.admission import AdmissionController

CLIENT_CLOSED_REQUEST = 499  # The client has disconnected and does not receive it.
CHUNK_BYTES = 65_536  # The server applies backpressure between chunks, so that a slow reader is noticed.


class TrackedResponse(Response):
    """A response in chunks, whose bytes `admission` counts until the server has taken all of them."""

    def __init__(self, content: bytes, media_type: str, headers: dict[str, str], admission: AdmissionController) -> None:
        super().__init__(content, media_type=media_type, headers=headers)
        self.admission = admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response (ASGI)."""
        with self.admission.track_response(len(self.body)):
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            for start in range(0, max(1, len(self.body)), CHUNK_BYTES):
                end = start + CHUNK_BYTES
                await send({"type": "http.response.body", "body": self.body[start:end], "more_body": end < len(self.body)})
