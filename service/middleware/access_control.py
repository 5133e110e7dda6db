"""Access control: checks the headers, Host, Origin and API key of every request before its body is read."""

from __future__ import annotations

import re
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.problems import ProblemError, problem_response
from service.api.roles import match_route, required_role
from service.auth import Role, authenticate
from service.settings import LOOPBACK, Settings

# Public paths of the documentation and of static files; all other routes declare the role that they need.
PUBLIC_PATHS = ("/docs", "/openapi.json")
PUBLIC_PREFIXES = ("/static/", "/static-offline-docs/")
PROBE_PATHS = ("/healthz", "/readyz")
MAX_HEADER_BYTES = 16_384
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


class AccessMiddleware:
    """Refuse requests that may not reach the application.

    This is middleware rather than a dependency, because FastAPI parses a request's body before it solves dependencies, and
    because middleware also covers paths without a route.

    Args:
        app: The ASGI application.
        settings: Settings of the service.
        routes: The routes that declare a role.
    """

    def __init__(self, app: ASGIApp, settings: Settings, routes: Iterable[BaseRoute]) -> None:
        self.app, self.settings, self.routes = app, settings, list(routes)
        host = f"[{settings.host}]" if ":" in settings.host else settings.host.lower()
        self.hosts = set(settings.allowed_hosts) or (set() if settings.api_keys else LOOPBACK | {host})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request (ASGI)."""
        if scope["type"] == "http":
            try:
                self._check(scope)
            except ProblemError as problem:
                await problem_response(Request(scope), problem)(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        """Raise ProblemError if the request must be refused."""
        headers = Headers(scope=scope)
        self._check_headers(scope, headers)
        if scope["path"] not in PROBE_PATHS:
            self._check_host(headers)
        if scope["method"] not in SAFE_METHODS:
            self._check_origin(headers)
        if self.settings.api_keys and (role := self._required_role(scope)):
            self._check_key(headers, role)

    def _check_headers(self, scope: Scope, headers: Headers) -> None:
        if "transfer-encoding" in headers and "content-length" in headers:  # RFC 9112, section 6.1
            detail = "both Content-Length and Transfer-Encoding are set; send only one of them"
            raise ProblemError("bad_request", detail, {"Connection": "close"})
        url_bytes = len(scope["raw_path"]) + len(scope["query_string"])
        if url_bytes + sum(len(name) + len(value) for name, value in headers.raw) > MAX_HEADER_BYTES:
            scope["path"], scope["raw_path"], scope["query_string"] = "/", b"/", b""  # Keep the URL out of the access log.
            detail = f"the headers and the URL are longer than {MAX_HEADER_BYTES:,} bytes; shorten them"
            raise ProblemError("bad_request", detail, {"Connection": "close"})

    def _check_host(self, headers: Headers) -> None:
        """Prevent DNS rebinding: a website whose name resolves to this computer sends its own name as Host."""
        if not self.hosts or "*" in self.hosts:
            return
        host = re.sub(r":\d*$", "", headers.get("host", "")).lower()
        if host not in self.hosts:
            raise ProblemError(
                "invalid_host", "the Host header is not accepted; add the host name to SEGMENT_ALLOWED_HOSTS if it is correct"
            )

    def _check_origin(self, headers: Headers) -> None:
        """Prevent cross-site requests: browsers let pages of any website send requests, and report the page's origin."""
        origin = headers.get("origin")
        if origin is None or origin in self.settings.cors_origins:
            return
        if origin.partition("://")[2].lower() != headers.get("host", "").lower():
            raise ProblemError(
                "cross_origin_denied", "the request comes from another website; add its origin to SEGMENT_CORS_ORIGINS"
            )

    def _required_role(self, scope: Scope) -> Role | None:
        """Return the role of the key that a request needs; None if it needs no key.

        Access is denied by default: a route that declares no role needs an admin key. A path that does not exist needs a
        key of any role.
        """
        if route := match_route(self.routes, scope):
            return required_role(route)
        if scope["path"] in PUBLIC_PATHS or scope["path"].startswith(PUBLIC_PREFIXES):
            return None
        return "admin" if match_route(scope["app"].routes, scope) else "segment"

    def _check_key(self, headers: Headers, role: Role) -> None:
        key = authenticate(self.settings.api_keys, headers.get("authorization", ""))
        if key is None:
            detail = "an API key is required; send `Authorization: Bearer KEY`"
            raise ProblemError("unauthorized", detail, {"WWW-Authenticate": "Bearer"})
        if not key.allows(role):
            raise ProblemError("insufficient_scope", f"an API key with the role {role} is required")
