"""The handler of SIGTERM and SIGINT, which may interrupt any code in the main thread."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor

import uvicorn

from service.__main__ import Server
from tests.support.live_server import Serve


def test_signal_handler_takes_no_lock_of_interrupted_code(serve: Serve) -> None:
    client = serve()
    evaluations, server = client.app.state.evaluations, Server(uvicorn.Config(client.app))
    with ThreadPoolExecutor(1) as pool, evaluations._stopping._cond, evaluations._run_pool._shutdown_lock:
        pool.submit(server.handle_exit, signal.SIGTERM, None).result(timeout=20)
    assert server.should_exit
