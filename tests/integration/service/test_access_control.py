"""Access control: API keys and roles, allowed hosts, cross-origin requests and security headers."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from core.errors import InputError
from service.api.roles import required_role
from service.app import PROTECTED_ROUTERS, PUBLIC_ROUTERS
from service.settings import load_settings
from tests.support.live_server import Serve
from tests.support.sample_images import encode_image

SEGMENT_KEY, ADMIN_KEY = "p" * 20, "o" * 20
KEYS = f"segment:{SEGMENT_KEY},admin:{ADMIN_KEY}"
PNG = encode_image()
PUBLIC = [("GET", path) for path in ("/", "/static/main.js", "/healthz", "/readyz", "/docs", "/openapi.json")]
ANY_ROLE = [
    ("POST", "/segment"),
    ("GET", "/models"),
    ("GET", "/nowhere"),
    ("GET", "/docs/"),
    ("GET", "/healthz/"),
    ("GET", "/metrics/"),
    ("POST", "/models/random/reload/"),
]
ADMIN_ONLY = [
    ("POST", "/evaluate"),
    ("GET", "/evaluate"),
    ("GET", "/evaluate/x"),
    ("DELETE", "/evaluate/x"),
    ("GET", "/evaluate/x/events"),
    ("GET", "/evaluate/x/difference"),
    ("GET", "/evaluate/x/examples/0/image"),
    ("GET", "/evaluate/x/examples/0/label"),
    ("GET", "/dataset"),
    ("GET", "/metrics"),
    ("POST", "/models/random/reload"),
    ("PUT", "/evaluate"),
]


def request(client: TestClient, method: str, path: str, key: str | None) -> tuple[int, str | None]:
    """Send a request with an API key; return the status and the error code, if any."""
    headers = {} if key is None else {"Authorization": f"Bearer {key}".encode()}
    content = PNG if method == "POST" else None
    response = client.request(method, path, headers=headers, content=content, follow_redirects=False)
    is_problem = response.headers.get("content-type") == "application/problem+json"
    return response.status_code, response.json()["code"] if is_problem else None


@pytest.mark.parametrize(("method", "path"), PUBLIC + ANY_ROLE + ADMIN_ONLY)
def test_key_grants_access_by_role(serve: Serve, method: str, path: str) -> None:
    client = serve(api_keys=KEYS)
    for invalid_key in (None, "", "x" * 20, SEGMENT_KEY[:-1], KEYS, "\u00e9" * 20):
        expected = request(client, method, path, ADMIN_KEY) if (method, path) in PUBLIC else (401, "unauthorized")
        assert request(client, method, path, invalid_key) == expected
    is_forbidden = request(client, method, path, SEGMENT_KEY) == (403, "insufficient_scope")
    assert is_forbidden == ((method, path) in ADMIN_ONLY)
    assert request(client, method, path, ADMIN_KEY)[1] not in ("unauthorized", "insufficient_scope")


def test_every_route_that_is_not_public_requires_key(serve: Serve) -> None:
    client = serve(api_keys=KEYS)
    documented_paths = set(client.get("/openapi.json").json()["paths"])
    route_paths = {route.path for route in client.app.routes if hasattr(route, "path")}
    public_paths = {"/", "/healthz", "/readyz", "/docs", "/openapi.json", "/static", "/static-offline-docs"}
    assert len(documented_paths) >= 9 and {"/docs", "/static"} <= route_paths
    for path in (documented_paths | route_paths) - public_paths:
        for method in ("GET", "POST", "PUT", "DELETE", "HEAD"):
            response = client.request(method, path.replace("{name}", "random").replace("{job_id}", "x"))
            assert response.status_code == 401, (method, path)


def test_every_endpoint_declares_its_role() -> None:
    for router in (*PUBLIC_ROUTERS, *PROTECTED_ROUTERS):
        for route in router.routes:
            assert (required_role(route) is None) == (router in PUBLIC_ROUTERS), route.path
            assert hasattr(route.endpoint, "required_role"), route.path


def test_route_without_role_requires_admin_key(serve: Serve) -> None:
    client = serve(api_keys=KEYS)

    @client.app.get("/new")
    async def new() -> str:
        return "secret"

    assert request(client, "GET", "/new", None) == (401, "unauthorized")
    assert request(client, "GET", "/new", SEGMENT_KEY) == (403, "insufficient_scope")
    assert request(client, "GET", "/new", ADMIN_KEY) == (200, None)


def test_key_is_checked_before_body(serve: Serve) -> None:
    client = serve(api_keys=KEYS, max_bytes=1000)
    assert request(client, "POST", "/segment", "x" * 20) == (401, "unauthorized")
    response = client.post("/segment", content=bytes(5000), headers={"Content-Type": "multipart/form-data"})
    assert (response.status_code, response.json()["code"]) == (401, "unauthorized")  # neither too_large nor malformed_body


def test_401_explains_authentication(serve: Serve) -> None:
    response = serve(api_keys=KEYS).post("/segment", content=PNG)
    assert response.headers["www-authenticate"] == "Bearer" and "Authorization: Bearer KEY" in response.json()["detail"]
    assert response.headers["x-request-id"] == response.json()["request_id"]


def test_basic_authentication_is_rejected(serve: Serve) -> None:
    assert serve(api_keys=KEYS).get("/models", headers={"Authorization": f"Basic {SEGMENT_KEY}"}).status_code == 401


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("my-secret-key", "key 1 has no role"),
        (f"segment:{SEGMENT_KEY},operator:{ADMIN_KEY}", "key 2 has no role"),
        ("segment:short-secret", "key 1 is invalid; expected 16 or more"),
        (" , ", "contains no key"),
        (f"segment:{SEGMENT_KEY} secret", "key 1 is invalid"),
    ],
)
def test_invalid_keys_error_does_not_reveal_them(keys: str, message: str) -> None:
    with pytest.raises(InputError, match=f"SEGMENT_API_KEYS: {message}") as error:
        load_settings(api_keys=keys)
    assert "secret" not in str(error.value) and SEGMENT_KEY not in str(error.value)


def test_public_address_requires_keys_or_anonymous_access() -> None:
    with pytest.raises(InputError, match=r"SEGMENT_HOST: 0\.0\.0\.0 can be reached from other computers"):
        load_settings(host="0.0.0.0")
    assert load_settings(host="0.0.0.0", api_keys=KEYS).host == "0.0.0.0"
    assert load_settings(host="0.0.0.0", allow_anonymous=True).host == "0.0.0.0"


@pytest.mark.parametrize(
    ("host", "settings", "allowed"),
    [
        ("localhost:8000", {}, True),
        ("LOCALHOST", {}, True),
        ("127.0.0.1:8000", {}, True),
        ("[::1]:8000", {}, True),
        ("evil.example", {}, False),
        ("localhost.evil.example", {}, False),
        ("evil.example:8000", {}, False),
        ("", {}, False),
        ("segment.example", {"allowed_hosts": "segment.example,other.example"}, True),
        ("localhost", {"allowed_hosts": "segment.example"}, False),
        ("any.example", {"allowed_hosts": "*"}, True),
        ("any.example", {"api_keys": KEYS}, True),
    ],
)
def test_host_header_must_be_allowed(serve: Serve, host: str, settings: dict[str, Any], allowed: bool) -> None:
    client = serve(**{"allowed_hosts": "", **settings})
    response = client.get("/models", headers={"Host": host, "Authorization": f"Bearer {SEGMENT_KEY}"})
    assert response.status_code == (200 if allowed else 400)
    assert allowed or response.json()["code"] == "invalid_host"
    assert client.get("/healthz", headers={"Host": host}).status_code == 200  # Probes use the IP address as the host.


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://testserver.evil.example", "testserver", "file://"])
def test_cross_origin_writes_are_denied(serve: Serve, origin: str) -> None:
    client = serve()
    for method, path in (("POST", "/segment"), ("DELETE", "/evaluate/x"), ("POST", "/evaluate")):
        response = client.request(method, path, headers={"Origin": origin})
        assert (response.status_code, response.json()["code"]) == (403, "cross_origin_denied")
        assert "access-control-allow-origin" not in response.headers


def test_same_origin_post_is_allowed(serve: Serve) -> None:
    assert serve().post("/segment", content=PNG, headers={"Origin": "http://testserver"}).status_code == 200


def test_configured_cors_origin_is_allowed(serve: Serve) -> None:
    client = serve(cors_origins="https://good.example", api_keys=KEYS)
    preflight = {
        "Origin": "https://good.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "Authorization",
    }
    assert client.options("/segment", headers=preflight).headers["access-control-allow-origin"] == "https://good.example"
    headers = {"Origin": "https://good.example", "Authorization": f"Bearer {SEGMENT_KEY}"}
    response = client.post("/segment", content=PNG, headers=headers)
    assert response.status_code == 200 and response.headers["access-control-allow-origin"] == "https://good.example"
    assert "Segment-Digest" in response.headers["access-control-expose-headers"]
    assert client.post("/segment", content=PNG, headers={**headers, "Origin": "https://evil.example"}).status_code == 403


@pytest.mark.parametrize("path", ["/segment", "/models", "/nowhere", "/healthz", "/docs"])
def test_responses_forbid_sniffing_and_framing(serve: Serve, path: str) -> None:
    headers = serve().get(path).headers
    assert (headers["x-content-type-options"], headers["x-frame-options"]) == ("nosniff", "DENY")
