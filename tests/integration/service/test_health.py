"""Liveness and readiness probes, the documentation page, and redirects."""

from __future__ import annotations

import threading

import pytest

from service.inference.registry import ModelRegistry
from tests.support.live_server import Serve


def test_probes_report_alive_and_ready(serve: Serve) -> None:
    client = serve()
    assert client.get("/healthz").json() == {"status": "alive"}
    assert client.get("/readyz").json() == {"status": "ready"}


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz"])
def test_head_request_returns_200_without_body(serve: Serve, path: str) -> None:
    response = serve().head(path)
    assert response.status_code == 200 and not response.content


def test_service_is_not_ready_before_default_model_is_loaded(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    may_load = threading.Event()
    original = ModelRegistry._load
    monkeypatch.setattr(ModelRegistry, "_load", lambda self, model: (may_load.wait(60), original(self, model))[1])
    client = serve(ready=False)
    try:
        response = client.get("/readyz")
        assert (response.status_code, response.json()["code"], response.headers["retry-after"]) == (503, "not_ready", "1")
        assert client.get("/healthz").status_code == 200
    finally:
        may_load.set()


def test_trailing_slash_is_not_redirected(serve: Serve) -> None:
    """Behind a proxy, a redirect would name the wrong scheme, and the client would send the image again to that URL."""
    response = serve().post("/segment/", content=b"x", follow_redirects=False)
    assert (response.status_code, response.json()["code"]) == (404, "not_found")


def test_docs_page_loads_no_external_assets(serve: Serve) -> None:
    client = serve()
    page = client.get("/docs").text
    assert "http://" not in page and "https://" not in page
    for asset in ("swagger-ui-bundle.js", "swagger-ui.css"):
        assert asset in page
        assert client.get(f"/static-offline-docs/{asset}").status_code == 200
