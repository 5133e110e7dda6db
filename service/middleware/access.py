"""Who gets in: headers, Host, Origin and key of every request, before anything of its body is read."""

from __future__ import annotations

import re

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api import problems
from service.api.problems import Problem
from service.api.request_body import drain
from service.auth import Role, find
from service.settings import LOOPBACK, Settings

OPEN = ("/", "/healthz", "/readyz", "/docs", "/openapi.json")
OPEN_FILES = ("/static/", "/static-offline-docs/")  # that the page and the documentation are shown with
PROBES = ("/healthz", "/readyz")
OPERATE = re.compile(r"/(evaluate|metrics)(/|$)|/models/.*/reload/?$", re.DOTALL)
HEADER_BYTES = 16_384
READING = ("GET", "HEAD", "OPTIONS")


class Guard:
    """Answers what must not come in."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app, self.settings = app, settings
        own = f"[{settings.host}]" if ":" in settings.host else settings.host.lower()
        self.hosts = set(settings.allowed_hosts) or (set() if settings.api_keys else LOOPBACK | {own})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request (ASGI)."""
        if scope["type"] == "http":
            try:
                self._require(scope)
            except Problem as problem:
                request = Request(scope, receive)
                await drain(request.stream())
                await problems.reply(request, problem)(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _require(self, scope: Scope) -> None:
        headers, path = Headers(scope=scope), scope["path"]
        self._framing(scope, headers)
        if path not in PROBES:
            self._host(headers)
        if scope["method"] not in READING:
            self._origin(headers)
        if self.settings.api_keys and path not in OPEN and not path.startswith(OPEN_FILES):
            self._key(headers, "operate" if OPERATE.match(path) else "segment")

    def _framing(self, scope: Scope, headers: Headers) -> None:
        if "transfer-encoding" in headers and "content-length" in headers:
            both = "the length is told twice; send Content-Length or Transfer-Encoding, not both"
            raise Problem("bad_request", both, {"Connection": "close"})  # RFC 9112, section 6.1
        target = len(scope["raw_path"]) + len(scope["query_string"])  # which would be written to the log
        if target + sum(len(name) + len(value) for name, value in headers.raw) > HEADER_BYTES:
            scope["path"], scope["raw_path"], scope["query_string"] = "/", b"/", b""  # the log is written from what is left
            raise Problem(
                "bad_request", f"the headers and the address are longer than {HEADER_BYTES:,} bytes", {"Connection": "close"}
            )

    def _host(self, headers: Headers) -> None:
        """A page of another site that resolves its name to this machine sends its own name (DNS rebinding)."""
        if not self.hosts or "*" in self.hosts:
            return
        host = re.sub(r":\d*$", "", headers.get("host", "")).lower()
        if host not in self.hosts:
            raise Problem("unknown_host", "the service is not called so; add the name to SEGMENT_ALLOWED_HOSTS where it is")

    def _origin(self, headers: Headers) -> None:
        """Browsers let a page of any site post to this one; they tell which site it is."""
        origin = headers.get("origin")
        if origin is None or origin in self.settings.cors_origins:
            return
        if origin.partition("://")[2].lower() != headers.get("host", "").lower():
            raise Problem("foreign_origin", "this comes from a page of another site; SEGMENT_CORS_ORIGINS lets one in")

    def _key(self, headers: Headers, role: Role) -> None:
        if not (key := find(self.settings.api_keys, headers.get("authorization", ""))):
            raise Problem("no_key", "this needs a key: `Authorization: Bearer KEY`", {"WWW-Authenticate": "Bearer"})
        if not key.may(role):
            raise Problem("wrong_role", f"this needs a key of the role {role}")
