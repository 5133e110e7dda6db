"""A service in this process, ready, with a checkpoint and data."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient

from service.app import create_app
from service.middleware.http_timeouts import Protocol
from service.settings import load_settings

Serve = Callable[..., TestClient]


def wait_until_ready(client: TestClient) -> TestClient:
    for _ in range(600):
        if client.get("/readyz").status_code == 200:
            return client
        time.sleep(0.05)
    raise AssertionError("the service did not become ready")


class Gate:
    """A network that answers when it is opened: until then nothing else is inferred on its device."""

    batch = 1

    def __init__(self) -> None:
        self.backend, self._event = self, threading.Event()

    def forward(self, batch: np.ndarray) -> np.ndarray:
        self._event.wait(60)
        return batch

    def set(self) -> None:
        self._event.set()


def shut(app: FastAPI) -> Gate:
    """Keep the service's workers busy until the gate is opened."""
    gate, workers = Gate(), app.state.segmenting.workers
    for _ in workers.each:
        workers.submit([gate] * len(workers.each), np.zeros((1, 1, 3), np.uint8))
    return gate


@contextmanager
def listening(app: FastAPI) -> Iterator[int]:
    """The service on a port, as `python -m service` has it, in a thread of this process."""
    # what ends a connection is not uvicorn's own deadline between two requests
    config = uvicorn.Config(app, port=0, http=Protocol, ws="none", log_config=None, timeout_keep_alive=600)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started and app.state.ready)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


def until(holds: Callable[[], object], seconds: float = 20) -> None:
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.fixture
def serve(tmp_path: Path, checkpoint: Path) -> Iterator[Serve]:
    """Starts a service with these settings; `checkpoint` is served where they don't tell others."""
    with ExitStack() as stack:

        def start(ready: bool = True, **settings: object) -> TestClient:
            app = create_app(
                load_settings(
                    **{"checkpoints": [checkpoint], "state": tmp_path / "state", "allowed_hosts": ["testserver"], **settings}
                )
            )
            client = stack.enter_context(TestClient(app, raise_server_exceptions=False))
            return wait_until_ready(client) if ready else client

        yield start
