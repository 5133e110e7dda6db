"""What every request has: an id, security headers in its response, and a problem response if it fails unexpectedly."""

from __future__ import annotations

import asyncio
import logging
import secrets

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.problems import ProblemError, problem_response, shutting_down

log = logging.getLogger("service")

SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",  # Browsers must not guess the type of a response.
    "X-Frame-Options": "DENY",  # A page of another website must not frame this one to redirect clicks to it.
}


class RequestContextMiddleware:
    """Assign a request id, add headers to the response, and turn unexpected exceptions into problem responses.

    The id is in `scope["state"]`, the X-Request-ID header, problem responses and the log.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request (ASGI)."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = request_id
        response_started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal response_started
            if message["type"] == "http.response.start":
                response_started = True
                MutableHeaders(scope=message).update({"X-Request-ID": request_id, **SECURITY_HEADERS})
            await send(message)

        try:
            await self.app(scope, receive, send_with_headers)
        except ClientDisconnect:  # There is no client to respond to.
            return
        except asyncio.CancelledError:  # The service is shutting down, and its grace period has expired.
            problem = shutting_down()
        except Exception:
            log.exception("request %s failed", request_id)
            if response_started:
                raise
            problem = ProblemError("internal_error", "the service failed to process this request; see its log")
        else:
            return
        if not response_started:
            await problem_response(Request(scope), problem)(scope, receive, send_with_headers)
