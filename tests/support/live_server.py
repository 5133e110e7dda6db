"""Run the service on a real port inside the test process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient

from service.middleware.http_timeouts import TimeoutH11Protocol
from tests.support.wait import wait_until

Serve = Callable[..., TestClient]
"""Type of the `serve` fixture: starts a service with the given settings and returns its client."""


def wait_until_ready(client: TestClient, timeout_s: float = 30) -> TestClient:
    """Poll /readyz until the service is ready, then return the client."""
    wait_until(lambda: client.get("/readyz").status_code == 200, timeout_s, interval_s=0.05)
    return client


@contextmanager
def live_server(app: FastAPI) -> Iterator[int]:
    """Serve `app` on a free port in a thread, with the HTTP protocol of `python -m service`; yield the port."""
    # The long keep-alive timeout ensures that connections are closed by the code under test and not by uvicorn.
    config = uvicorn.Config(app, port=0, http=TimeoutH11Protocol, ws="none", log_config=None, timeout_keep_alive=600)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started and app.state.ready)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()
