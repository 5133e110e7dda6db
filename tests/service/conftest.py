"""A service in this process, ready, with a checkpoint and data."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from service.app import create_app
from service.settings import load_settings

Serve = Callable[..., TestClient]


def wait_until_ready(client: TestClient) -> TestClient:
    for _ in range(600):
        if client.get("/readyz").status_code == 200:
            return client
        time.sleep(0.05)
    raise AssertionError("the service did not become ready")


@pytest.fixture
def serve(tmp_path: Path, checkpoint: Path) -> Iterator[Serve]:
    """Starts a service with these settings; `checkpoint` is served where they don't tell others."""
    with ExitStack() as stack:

        def start(ready: bool = True, **settings: object) -> TestClient:
            app = create_app(load_settings(**{"checkpoints": [checkpoint], "state": tmp_path / "state", **settings}))
            client = stack.enter_context(TestClient(app, raise_server_exceptions=False))
            return wait_until_ready(client) if ready else client

        yield start
