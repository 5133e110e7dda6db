"""What clients do with their sockets: say nothing, say half, say it slowly, say it twice, leave."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import numpy as np
import pytest
from fastapi import FastAPI

from service.app import create_app
from service.settings import load_settings
from tests.integration.service.conftest import listening, until
from tests.support.sample_images import encoded

PNG = encoded()
HEAD = b"POST /segment HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
SILENT = 200  # sockets


@pytest.fixture
def live(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[FastAPI, int]]:
    """A service on a port, with a fortieth of its patience."""
    monkeypatch.setattr("service.middleware.http_timeouts.HEADER_SECONDS", 0.25)
    monkeypatch.setattr("service.api.request_body.CHUNK_SECONDS", 0.25)
    monkeypatch.setattr("service.api.request_body.BODY_SECONDS", 3.0)
    app = create_app(load_settings(checkpoints=[checkpoint], state=tmp_path / "state", max_bytes=100_000, queue_bytes=100_000))
    with listening(app) as port:
        yield app, port


def connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=20)


def answer(sock: socket.socket) -> bytes:
    """All that comes until the service closes the connection."""
    told = b""
    while some := sock.recv(65536):
        told += some
    return told


def code(told: bytes) -> tuple[int, str | None]:
    head, _, body = told.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["code"] if b"problem+json" in head else None


def still_serves(port: int) -> None:
    assert httpx.post(f"http://127.0.0.1:{port}/segment", content=PNG).status_code == 200


@pytest.mark.parametrize("begin", [b"", b"G", b"GET / HTTP/1.1\r\nHost: local", HEAD])
def test_a_header_that_does_not_come_ends_the_connection(live: tuple[FastAPI, int], begin: bytes) -> None:
    with connected(live[1]) as sock:
        sock.sendall(begin)
        assert answer(sock) == b""
    still_serves(live[1])


def test_a_header_in_drops_has_no_more_time(live: tuple[FastAPI, int]) -> None:
    with connected(live[1]) as sock, pytest.raises(OSError):
        for byte in b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 1000:
            sock.sendall(bytes([byte]))
            time.sleep(0.02)
    still_serves(live[1])


def test_a_second_header_has_the_same_deadline(live: tuple[FastAPI, int]) -> None:
    with connected(live[1]) as sock:
        sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /healthz HT")
        told = answer(sock)
        assert told.count(b"HTTP/1.1 200") == 1
    still_serves(live[1])


def test_a_body_that_stops_408(live: tuple[FastAPI, int]) -> None:
    with connected(live[1]) as sock:
        sock.sendall(HEAD + b"Content-Length: 1000\r\n\r\n" + PNG[:20])
        assert code(answer(sock)) == (408, "slow_body")
    still_serves(live[1])


def test_a_body_in_drops_408(live: tuple[FastAPI, int]) -> None:
    with connected(live[1]) as sock:
        sock.sendall(HEAD + b"Content-Length: 1000\r\n\r\n")
        sock.settimeout(0.1)
        told = b""
        for _ in range(100):
            with suppress(TimeoutError):
                told = sock.recv(65536)  # the head; the rest may come on its own
                break
            with suppress(OSError):  # it may have answered meanwhile
                sock.sendall(b"x")
        sock.settimeout(20)
        assert code(told + answer(sock)) == (408, "slow_body")
    still_serves(live[1])


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", (400, "bad_request")),
        (b"Content-Length: 5\r\nContent-Length: 6\r\n", (400, None)),
        (b"Content-Length: -5\r\n", (400, None)),
        (b"Content-Length: five\r\n", (400, None)),
        (b"Content-Length: 5\r\nX: " + b"x" * 200_000 + b"\r\n", (400, None)),
        (b"Content-Length: 5\r\nX: " + b"x" * 16_000 + b"\r\nY: " + b"y" * 1_000 + b"\r\n", (400, "bad_request")),
        (b"X: a\0b\r\n", (400, None)),
        (b"X : a\r\n", (400, None)),
        (b"Host: other\r\n", (400, None)),
    ],
)
def test_headers_that_contradict_themselves_400(
    live: tuple[FastAPI, int], lines: bytes, expected: tuple[int, str | None]
) -> None:
    with connected(live[1]) as sock:
        try:
            sock.sendall(HEAD + lines + b"\r\n0\r\n\r\n")
            told = answer(sock)
        except ConnectionError:
            if len(lines) < 100_000:
                raise
            told = b"HTTP/1.1 400"  # it answered before it had read all, and the rest was not taken
        assert code(told) == expected or (len(lines) > 100_000 and code(told) == (400, "bad_request"))  # by how it arrives
    still_serves(live[1])


def test_a_bad_chunk_is_no_picture(live: tuple[FastAPI, int]) -> None:
    with connected(live[1]) as sock:
        sock.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nabcdeXX\r\n")
        assert code(answer(sock))[0] == 400
    until(lambda: not live[0].state.segmenting.admission.bytes)
    still_serves(live[1])


def test_a_bad_chunk_after_the_reply_ends_the_connection(live: tuple[FastAPI, int], caplog: pytest.LogCaptureFixture) -> None:
    with connected(live[1]) as sock:
        sock.sendall(b"POST /healthz HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        told = sock.recv(65536)
        sock.sendall(b"ZZ\r\n")
        assert code(told + answer(sock)) == (405, "method_not_allowed")
    assert not [record for record in caplog.records if record.name == "asyncio"]
    still_serves(live[1])


def test_an_address_longer_than_any_is_refused_and_not_logged(
    live: tuple[FastAPI, int], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "uvicorn.access")
    for path in (b"/?", b"/"):
        with connected(live[1]) as sock:
            sock.sendall(b"GET " + path + b"%FF" * 6000 + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert code(answer(sock)) == (400, "bad_request")
    told = [record.getMessage() for record in caplog.records if record.name == "uvicorn.access"]
    assert len(told) == 2 and max(map(len, told)) < 200


@pytest.mark.parametrize("pause", [0.0, 0.05])
def test_a_reply_that_is_read_in_drops_has_no_more_time(
    live: tuple[FastAPI, int], monkeypatch: pytest.MonkeyPatch, pause: float
) -> None:
    monkeypatch.setattr("service.middleware.http_timeouts.READ_SECONDS", 1.0)
    app, port = live
    app.state.segmenting.settings.max_bytes = app.state.segmenting.admission.max_bytes = 10_000_000
    photo = encoded("JPEG", np.random.default_rng(0).integers(0, 256, (1500, 2000, 3), np.uint8), quality=50)
    head = HEAD.replace(b"/segment", b"/segment?output=overlay&format=png").replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
    read = 0
    with connected(port) as sock:
        sock.sendall(head + b"Content-Length: %d\r\n\r\n" % len(photo) + photo)
        with suppress(ConnectionError):
            while some := sock.recv(1 << 16):
                read += len(some)
                time.sleep(pause)
    assert (read > 7_000_000) == (not pause)  # whoever reads gets all of it
    until(lambda: not app.state.segmenting.admission.bytes)


def test_a_reply_that_nobody_reads_counts_and_ends_the_connection(
    live: tuple[FastAPI, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.middleware.http_timeouts.READ_SECONDS", 0.5)
    app, port = live
    app.state.segmenting.settings.max_bytes = app.state.segmenting.admission.max_bytes = 10_000_000
    noise = np.random.default_rng(0).integers(0, 256, (1500, 2000, 3), np.uint8)
    photo = encoded("JPEG", noise, quality=50)
    with connected(port) as sock:
        sock.sendall(
            HEAD.replace(b"/segment", b"/segment?output=overlay&format=png") + b"Content-Length: %d\r\n\r\n" % len(photo)
        )
        sock.sendall(photo)
        until(lambda: app.state.segmenting.admission.bytes > 5_000_000 > len(photo))
        until(lambda: not app.state.segmenting.admission.bytes)
        told = b""
        with suppress(ConnectionError):
            told = answer(sock)
    assert len(told) < 5_000_000
    still_serves(port)


def test_silent_sockets_shut_nobody_out(live: tuple[FastAPI, int]) -> None:
    silent = [connected(live[1]) for _ in range(SILENT)]
    for _ in range(5):
        still_serves(live[1])
    for sock in silent:
        assert answer(sock) == b""
        sock.close()


def test_bytes_that_come_in_are_bounded_over_all_requests(live: tuple[FastAPI, int]) -> None:
    app, port = live
    with connected(port) as first, connected(port) as second:
        first.sendall(HEAD + b"Content-Length: 90000\r\n\r\n" + bytes(80_000))
        until(lambda: app.state.segmenting.admission.bytes == 80_000)
        second.sendall(HEAD + b"Connection: close\r\nContent-Length: 30000\r\n\r\n" + bytes(30_000))
        told = answer(second)
        assert code(told) == (503, "overloaded") and b"retry-after" in told.lower()
        still_serves(port)
    until(lambda: not app.state.segmenting.admission.bytes)


def test_a_client_that_leaves_in_the_body_leaves_nothing(live: tuple[FastAPI, int]) -> None:
    app, port = live
    with connected(port) as sock:
        sock.sendall(HEAD + b"Content-Length: 50000\r\n\r\n" + bytes(10_000))
        until(lambda: app.state.segmenting.admission.bytes)
    until(lambda: not app.state.segmenting.admission.bytes)
    still_serves(port)
