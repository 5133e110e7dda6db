"""Fixtures for tests of a service that runs in the test process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from service.app import create_app
from service.settings import load_settings
from tests.support.live_server import Serve, wait_until_ready


@pytest.fixture
def serve(tmp_path: Path, checkpoint: Path) -> Iterator[Serve]:
    """A function that starts a service with the given settings; by default it serves `checkpoint` and is ready."""
    with ExitStack() as stack:

        def start(ready: bool = True, **settings: object) -> TestClient:
            defaults = {"checkpoints": [checkpoint], "state": tmp_path / "state", "allowed_hosts": ["testserver"]}
            app = create_app(load_settings(**(defaults | settings)))
            client = stack.enter_context(TestClient(app, raise_server_exceptions=False))
            return wait_until_ready(client) if ready else client

        yield start
