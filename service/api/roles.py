"""The role of the API key that an endpoint needs, declared beside its route and enforced by AccessMiddleware."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from starlette.routing import BaseRoute, Match
from starlette.types import Scope

from service.auth import Role

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])


def requires_role(role: Role | None) -> Callable[[Endpoint], Endpoint]:
    """Declare the role that an endpoint needs, None for a public one; an endpoint without a declaration needs `admin`."""

    def declare(endpoint: Endpoint) -> Endpoint:
        endpoint.__dict__["required_role"] = role
        return endpoint

    return declare


def required_role(route: BaseRoute) -> Role | None:
    """Return the role that the endpoint of a route declares, `admin` if it declares none."""
    role: Role | None = getattr(getattr(route, "endpoint", None), "required_role", "admin")
    return role


def match_route(routes: Iterable[BaseRoute], scope: Scope) -> BaseRoute | None:
    """Return the route that Starlette selects for a request: the first match, preferably with the right method."""
    partial = None
    for route in routes:
        match, _ = route.matches(scope)
        if match is Match.FULL:
            return route
        if match is Match.PARTIAL:
            partial = partial or route
    return partial
