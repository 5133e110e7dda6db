"""Clients that send or read slowly, send invalid HTTP, or disconnect; with raw sockets."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
from fastapi import FastAPI

from service.app import create_app
from service.auth import parse_keys
from service.inference.admission import AdmissionController
from service.settings import Settings, load_settings
from tests.support.live_server import live_server
from tests.support.sample_images import encode_image
from tests.support.wait import wait_until

PNG = encode_image()
HEADERS = b"POST /segment HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
GET_HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
IDLE_CONNECTIONS = 200
HEADER_TIMEOUT = "service.middleware.http_timeouts.HEADER_TIMEOUT_S"
WRITE_TIMEOUT = "service.middleware.http_timeouts.WRITE_TIMEOUT_S"
CHUNK_TIMEOUT = "service.api.request_body.CHUNK_TIMEOUT_S"
BODY_TIMEOUT = "service.api.request_body.BODY_TIMEOUT_S"
DISCARD_TIMEOUT = "service.middleware.unread_body.DISCARD_TIMEOUT_S"  # the only one whose default tests may wait for
EXPECT = b"Expect: 100-continue\r\n"


@dataclass
class LiveService:
    """A service on a port, whose timeouts are too long to expire in a test unless the test shortens one of them."""

    app: FastAPI
    port: int
    patch: pytest.MonkeyPatch

    @property
    def admission(self) -> AdmissionController:
        return self.app.state.inference.admission

    def set_timeout(self, name: str, seconds: float) -> None:
        """Set a timeout for the connections that are opened from now on."""
        self.patch.setattr(name, seconds)

    def allow_large_bodies(self) -> None:
        self.settings.max_bytes = self.admission.max_bytes = 10_000_000

    @property
    def settings(self) -> Settings:
        return self.app.state.inference.settings

    def connect(self, receive_buffer: int | None = None) -> socket.socket:
        """Open a connection; a small receive buffer makes a client that does not read noticeable sooner."""
        sock = socket.socket()
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.settimeout(20)
        sock.connect(("127.0.0.1", self.port))
        return sock

    def assert_serves(self) -> None:
        """Check that an image is segmented, however busy the computer is: with long timeouts."""
        with pytest.MonkeyPatch.context() as patch:
            for name in (HEADER_TIMEOUT, WRITE_TIMEOUT, CHUNK_TIMEOUT, BODY_TIMEOUT):
                patch.setattr(name, 60.0)
            assert httpx.post(f"http://127.0.0.1:{self.port}/segment", content=PNG, timeout=60).status_code == 200


@pytest.fixture
def service(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LiveService]:
    app = create_app(load_settings(checkpoints=[checkpoint], state=tmp_path / "state", max_bytes=100_000, queue_bytes=100_000))
    for name in (HEADER_TIMEOUT, WRITE_TIMEOUT, CHUNK_TIMEOUT, BODY_TIMEOUT):
        monkeypatch.setattr(name, 60.0)
    with live_server(app) as port:
        yield LiveService(app, port, monkeypatch)


def read_until_closed(sock: socket.socket) -> bytes:
    """Return all bytes that the service sends until it closes the connection."""
    received = b""
    while data := sock.recv(65536):
        received += data
    return received


def parse_status(response: bytes) -> tuple[int, str | None]:
    """Return the status and the error code, if any, of a raw response."""
    headers, _, body = response.partition(b"\r\n\r\n")
    return int(headers.split()[1]), json.loads(body)["code"] if b"problem+json" in headers else None


def overlay_request() -> bytes:
    """Return a request whose response, a PNG of noise, is larger than the buffers of the connection."""
    image = encode_image("JPEG", np.random.default_rng(0).integers(0, 256, (1500, 2000, 3), np.uint8), quality=50)
    headers = HEADERS.replace(b"/segment", b"/segment?output=overlay&format=png")
    return headers + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(image) + image


@pytest.mark.parametrize("sent", [b"", b"G", b"GET / HTTP/1.1\r\nHost: local", HEADERS])
def test_incomplete_header_closes_connection(service: LiveService, sent: bytes) -> None:
    service.set_timeout(HEADER_TIMEOUT, 0.25)
    with service.connect() as sock:
        sock.sendall(sent)
        assert read_until_closed(sock) == b""
    service.assert_serves()


def test_slow_header_closes_connection(service: LiveService) -> None:
    service.set_timeout(HEADER_TIMEOUT, 0.25)
    with service.connect() as sock, pytest.raises(OSError):
        for byte in b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 1000:
            sock.sendall(bytes([byte]))
            time.sleep(0.02)
    service.assert_serves()


def test_incomplete_header_of_second_request_closes_connection(service: LiveService) -> None:
    with service.connect() as sock:
        sock.sendall(GET_HEALTH)
        first = sock.recv(65536)
        service.set_timeout(HEADER_TIMEOUT, 0.25)
        # The short timeout applies after the response to a complete request, not to that request itself.
        sock.sendall(GET_HEALTH + b"GET /healthz HT")
        assert (first + read_until_closed(sock)).count(b"HTTP/1.1 200") == 2
    service.assert_serves()


def test_stalled_body_returns_408(service: LiveService) -> None:
    service.set_timeout(CHUNK_TIMEOUT, 0.25)
    service.set_timeout(DISCARD_TIMEOUT, 0.25)
    with service.connect() as sock:
        sock.sendall(HEADERS + b"Content-Length: 1000\r\n\r\n" + PNG[:20])
        assert parse_status(read_until_closed(sock)) == (408, "request_timeout")
    service.assert_serves()


def test_slow_body_returns_408(service: LiveService) -> None:
    service.set_timeout(BODY_TIMEOUT, 1)
    service.set_timeout(DISCARD_TIMEOUT, 0.25)
    with service.connect() as sock:
        sock.sendall(HEADERS + b"Content-Length: 1000\r\n\r\n")
        sock.settimeout(0.1)
        response = b""
        for _ in range(100):
            with suppress(TimeoutError):
                response = sock.recv(65536)  # The body of the response may arrive separately.
                break
            with suppress(OSError):  # The service may have responded and closed the connection in the meantime.
                sock.sendall(b"x")
        sock.settimeout(20)
        assert parse_status(response + read_until_closed(sock)) == (408, "request_timeout")
    service.assert_serves()


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", (400, "bad_request")),
        (b"Content-Length: 5\r\nContent-Length: 6\r\n", (400, None)),
        (b"Content-Length: -5\r\n", (400, None)),
        (b"Content-Length: five\r\n", (400, None)),
        (b"Content-Length: 5\r\nX: " + b"x" * 16_000 + b"\r\nY: " + b"y" * 1_000 + b"\r\n", (400, "bad_request")),
        (b"X: a\0b\r\n", (400, None)),
        (b"X : a\r\n", (400, None)),
        (b"Host: other\r\n", (400, None)),
    ],
)
def test_invalid_header_returns_400(service: LiveService, lines: bytes, expected: tuple[int, str | None]) -> None:
    with service.connect() as sock:
        sock.sendall(HEADERS + lines + b"\r\n0\r\n\r\n")
        assert parse_status(read_until_closed(sock)) == expected
    service.assert_serves()


def test_header_of_200_kb_is_rejected(service: LiveService) -> None:
    with service.connect() as sock:
        try:
            sock.sendall(HEADERS + b"Content-Length: 5\r\nX: " + b"x" * 200_000 + b"\r\n\r\n0\r\n\r\n")
            response = read_until_closed(sock)
        except ConnectionError:
            pass  # The service responded before it had read the whole header, and the kernel reset the connection.
        else:
            assert parse_status(response) in ((400, None), (400, "bad_request"))
    service.assert_serves()


def test_invalid_chunk_of_body_returns_400(service: LiveService) -> None:
    with service.connect() as sock:
        sock.sendall(HEADERS + b"Transfer-Encoding: chunked\r\n\r\n5\r\nabcdeXX\r\n")
        assert parse_status(read_until_closed(sock))[0] == 400
    wait_until(lambda: not service.admission.bytes)
    service.assert_serves()


def test_invalid_chunk_after_response_closes_connection(service: LiveService, caplog: pytest.LogCaptureFixture) -> None:
    with service.connect() as sock:
        sock.sendall(b"POST /healthz HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        response = sock.recv(65536)
        sock.sendall(b"ZZ\r\n")
        assert parse_status(response + read_until_closed(sock)) == (405, "method_not_allowed")
    assert not [record for record in caplog.records if record.name == "asyncio"]
    service.assert_serves()


def test_too_long_url_is_rejected_and_truncated_in_log(service: LiveService, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "uvicorn.access")
    for path in (b"/?", b"/"):
        with service.connect() as sock:
            sock.sendall(b"GET " + path + b"%FF" * 6000 + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert parse_status(read_until_closed(sock)) == (400, "bad_request")
    messages = [record.getMessage() for record in caplog.records if record.name == "uvicorn.access"]
    assert len(messages) == 2 and max(map(len, messages)) < 200


def test_client_that_falls_behind_and_catches_up_gets_whole_response(service: LiveService) -> None:
    service.allow_large_bodies()
    request = overlay_request()
    with service.connect(receive_buffer=1 << 16) as sock:
        sock.sendall(request)
        # Larger than the upload: the response is complete, and the service waits until the client reads it.
        wait_until(lambda: service.admission.bytes > 5_000_000 > len(request))
        headers, _, body = read_until_closed(sock).partition(b"\r\n\r\n")
    assert f"content-length: {len(body)}".encode() in headers.lower() and len(body) > 7_000_000
    wait_until(lambda: not service.admission.bytes)


def test_response_that_is_read_too_slowly_closes_connection(service: LiveService) -> None:
    service.set_timeout(WRITE_TIMEOUT, 0.5)
    service.allow_large_bodies()
    received = 0
    with service.connect(receive_buffer=1 << 16) as sock:
        sock.sendall(overlay_request())
        with suppress(ConnectionError):
            while data := sock.recv(1 << 14):
                received += len(data)
                time.sleep(0.02)
    assert 0 < received < 7_000_000
    wait_until(lambda: not service.admission.bytes)


def test_response_that_is_not_read_counts_as_in_flight_until_timeout(service: LiveService) -> None:
    service.set_timeout(WRITE_TIMEOUT, 0.5)
    service.allow_large_bodies()
    request = overlay_request()
    with service.connect(receive_buffer=1 << 16) as sock:
        sock.sendall(request)
        wait_until(lambda: service.admission.bytes > 5_000_000 > len(request))
        wait_until(lambda: not service.admission.bytes)
        received = b""
        with suppress(ConnectionError):
            received = read_until_closed(sock)
    assert len(received) < 5_000_000
    service.assert_serves()


def test_idle_connections_do_not_block_other_clients(service: LiveService) -> None:
    idle = [service.connect() for _ in range(IDLE_CONNECTIONS)]
    for _ in range(5):
        service.assert_serves()
    for sock in idle:
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):  # The connection is still open.
            sock.recv(1)
        sock.close()


def test_idle_connections_are_closed_at_timeout(service: LiveService) -> None:
    service.set_timeout(HEADER_TIMEOUT, 0.25)
    idle = [service.connect() for _ in range(IDLE_CONNECTIONS)]
    for sock in idle:
        assert read_until_closed(sock) == b""
        sock.close()
    service.assert_serves()


def test_upload_limit_applies_to_all_requests_together(service: LiveService) -> None:
    with service.connect() as first, service.connect() as second:
        first.sendall(HEADERS + b"Content-Length: 90000\r\n\r\n" + bytes(80_000))
        wait_until(lambda: service.admission.bytes == 80_000)
        second.sendall(HEADERS + b"Connection: close\r\nContent-Length: 30000\r\n\r\n" + bytes(30_000))
        response = read_until_closed(second)
        assert parse_status(response) == (503, "overloaded") and b"retry-after" in response.lower()
        service.assert_serves()
    wait_until(lambda: not service.admission.bytes)


def test_disconnect_during_upload_releases_its_bytes(service: LiveService) -> None:
    with service.connect() as sock:
        sock.sendall(HEADERS + b"Content-Length: 50000\r\n\r\n" + bytes(10_000))
        wait_until(lambda: service.admission.bytes)
    wait_until(lambda: not service.admission.bytes)
    service.assert_serves()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ((b"localhost", b"evil.example"), (400, "invalid_host")),
        ((b"image/png", b"multipart/form-data"), (400, "malformed_body")),
        ((b"/segment", b"/segment?model=unknown"), (404, "unknown_model")),
        ((b"POST", b"PUT"), (405, "method_not_allowed")),
        ((b"Length: 50000", b"Length: 200000"), (413, "too_large")),
        ((b"image/png", b"text/plain"), (415, "unsupported_media_type")),
        ((b"/segment", b"/segment?output=song"), (422, "invalid_parameter")),
    ],
)
def test_request_refused_by_its_headers_gets_no_100_continue(
    service: LiveService, change: tuple[bytes, bytes], expected: tuple[int, str]
) -> None:
    assert respond_to_expectation(service, *change) == expected
    service.assert_serves()


def test_unauthorized_request_gets_no_100_continue(service: LiveService) -> None:
    service.settings.api_keys = parse_keys("segment:" + "k" * 16)
    assert respond_to_expectation(service) == (401, "unauthorized")


def test_request_beyond_queue_gets_no_100_continue(service: LiveService) -> None:
    service.admission.max_requests = 0
    assert respond_to_expectation(service) == (503, "overloaded")


def test_multi_pass_request_beyond_queue_gets_no_100_continue(service: LiveService) -> None:
    service.admission.max_multi_pass = 0
    assert respond_to_expectation(service, b"/segment", b"/segment?flip=true") == (503, "overloaded")


def respond_to_expectation(service: LiveService, old: bytes = b"", new: bytes = b"") -> tuple[int, str | None]:
    """Send only the headers of an upload, with one change; return the first status, after which the connection must close."""
    service.set_timeout(DISCARD_TIMEOUT, 0.1)
    with service.connect() as sock:
        sock.sendall((HEADERS + b"Content-Length: 50000\r\n" + EXPECT + b"\r\n").replace(old, new, bool(old)))
        response = read_until_closed(sock)
    assert b"\r\nconnection: close\r\n" in response
    return parse_status(response)


def test_accepted_request_gets_100_continue(service: LiveService) -> None:
    with service.connect() as sock:
        sock.sendall(HEADERS + b"Connection: close\r\nContent-Length: %d\r\n" % len(PNG) + EXPECT + b"\r\n")
        assert sock.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(PNG)
        assert parse_status(read_until_closed(sock)) == (200, None)


@pytest.mark.parametrize("line", [EXPECT, b"Connection: close\r\n"])
@pytest.mark.parametrize("media_type", [b"image/png", b"text/plain"])
def test_client_that_sends_refused_body_gets_response(service: LiveService, line: bytes, media_type: bytes) -> None:
    body = bytes(20_000_000)  # larger than the buffers of the connection
    with service.connect() as sock:
        headers = HEADERS.replace(b"image/png", media_type) + line
        sock.sendall(headers + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        assert parse_status(read_until_closed(sock))[0] in (413, 415)
    service.assert_serves()


def test_connection_is_reused_after_refused_body(service: LiveService) -> None:
    with service.connect() as sock:
        refused = HEADERS.replace(b"image/png", b"text/plain") + b"Content-Length: 90000\r\n\r\n" + bytes(90_000)
        sock.sendall(refused + GET_HEALTH.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        received = read_until_closed(sock)
    assert received.startswith(b"HTTP/1.1 415") and received.count(b"HTTP/1.1 200") == 1
