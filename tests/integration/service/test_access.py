"""Who gets in: keys and their roles, names of the service, pages of other sites, what browsers are told."""

from __future__ import annotations

import pytest

from core.errors import InputError
from service.settings import load_settings
from tests.support.sample_images import encoded

PICTURE, OPERATOR = "p" * 20, "o" * 20
KEYS = f"segment:{PICTURE},operate:{OPERATOR}"
PNG = encoded()
FOR_ALL = [("GET", path) for path in ("/", "/static/main.js", "/healthz", "/readyz", "/docs", "/openapi.json")]
FOR_PICTURES = [("POST", "/segment"), ("GET", "/models"), ("GET", "/nowhere"), ("GET", "/docs/"), ("GET", "/healthz/")]
FOR_OPERATORS = [
    ("POST", "/evaluate"),
    ("GET", "/evaluate"),
    ("GET", "/evaluate/x"),
    ("DELETE", "/evaluate/x"),
    ("GET", "/evaluate/x/events"),
    ("GET", "/metrics"),
    ("GET", "/metrics/"),
    ("POST", "/models/random/reload"),
    ("POST", "/models/random/reload/"),
]


def ask(client, method: str, path: str, key: str | None) -> tuple[int, str | None]:
    headers = {} if key is None else {"Authorization": f"Bearer {key}".encode()}
    reply = client.request(method, path, headers=headers, content=PNG if method == "POST" else None, follow_redirects=False)
    problem = reply.headers.get("content-type") == "application/problem+json"
    return reply.status_code, reply.json()["code"] if problem else None


@pytest.mark.parametrize(("method", "path"), FOR_ALL + FOR_PICTURES + FOR_OPERATORS)
def test_who_may_what(serve, method: str, path: str) -> None:
    client = serve(api_keys=KEYS)
    for key in (None, "", "x" * 20, PICTURE[:-1], KEYS, "\u00e9" * 20):
        got = ask(client, method, path, key)
        assert got == (ask(client, method, path, OPERATOR) if (method, path) in FOR_ALL else (401, "no_key"))
    refused = ask(client, method, path, PICTURE) == (403, "wrong_role")
    assert refused == ((method, path) in FOR_OPERATORS)
    assert ask(client, method, path, OPERATOR)[1] not in ("no_key", "wrong_role")


def test_a_refusal_says_how_to_ask(serve) -> None:
    reply = serve(api_keys=KEYS).post("/segment", content=PNG)
    assert reply.headers["www-authenticate"] == "Bearer" and "Authorization: Bearer KEY" in reply.json()["detail"]
    assert reply.headers["x-request-id"] == reply.json()["request_id"]


def test_another_scheme_is_no_key(serve) -> None:
    assert serve(api_keys=KEYS).get("/models", headers={"Authorization": f"Basic {PICTURE}"}).status_code == 401


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("secret-key-of-mine", "key 1 has no role"),
        (f"segment:{PICTURE},admin:{OPERATOR}", "key 2 has no role"),
        ("segment:short-secret", "key 1 can't be taken; expected 16 or more"),
        (" , ", "holds no key"),
        (f"segment:{PICTURE} secret", "key 1 can't be taken"),
    ],
)
def test_a_wrong_key_setting_is_told_without_the_key(keys: str, message: str) -> None:
    with pytest.raises(InputError, match=f"SEGMENT_API_KEYS: {message}") as told:
        load_settings(api_keys=keys)
    assert "secret" not in str(told.value) and PICTURE not in str(told.value)


def test_an_address_for_others_needs_keys_or_so_many_words() -> None:
    with pytest.raises(InputError, match=r"SEGMENT_HOST: 0\.0\.0\.0 can be reached from other machines"):
        load_settings(host="0.0.0.0")
    assert load_settings(host="0.0.0.0", api_keys=KEYS).host == load_settings(host="0.0.0.0", allow_anonymous=True).host


@pytest.mark.parametrize(
    ("host", "settings", "taken"),
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
def test_only_names_of_the_service_are_answered(serve, host: str, settings: dict, taken: bool) -> None:
    client = serve(**{"allowed_hosts": "", **settings})
    reply = client.get("/models", headers={"Host": host, "Authorization": f"Bearer {PICTURE}"})
    assert reply.status_code == (200 if taken else 400)
    assert taken or reply.json()["code"] == "unknown_host"
    assert client.get("/healthz", headers={"Host": host}).status_code == 200  # probes go by address


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://testserver.evil.example", "testserver", "file://"])
def test_a_page_of_another_site_can_t_post(serve, origin: str) -> None:
    client = serve()
    for method, path in (("POST", "/segment"), ("DELETE", "/evaluate/x"), ("POST", "/evaluate")):
        reply = client.request(method, path, headers={"Origin": origin})
        assert (reply.status_code, reply.json()["code"]) == (403, "foreign_origin")
        assert "access-control-allow-origin" not in reply.headers


def test_its_own_page_can(serve) -> None:
    assert serve().post("/segment", content=PNG, headers={"Origin": "http://testserver"}).status_code == 200


def test_pages_of_sites_that_are_let_in_can(serve) -> None:
    client = serve(cors_origins="https://good.example", api_keys=KEYS)
    asked = {
        "Origin": "https://good.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "Authorization",
    }
    assert client.options("/segment", headers=asked).headers["access-control-allow-origin"] == "https://good.example"
    sent = {"Origin": "https://good.example", "Authorization": f"Bearer {PICTURE}"}
    reply = client.post("/segment", content=PNG, headers=sent)
    assert reply.status_code == 200 and reply.headers["access-control-allow-origin"] == "https://good.example"
    assert "Segment-Digest" in reply.headers["access-control-expose-headers"]
    assert client.post("/segment", content=PNG, headers={**sent, "Origin": "https://evil.example"}).status_code == 403


@pytest.mark.parametrize("path", ["/segment", "/models", "/nowhere", "/healthz", "/docs"])
def test_browsers_are_told_not_to_guess_and_not_to_frame(serve, path: str) -> None:
    headers = serve().get(path).headers
    assert (headers["x-content-type-options"], headers["x-frame-options"]) == ("nosniff", "DENY")
