"""A load generator: clients that post pictures in threads, each on a connection of its own, and what they saw."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

BOUNDARY = "segment-benchmark"


def form(picture: bytes, kind: str) -> bytes:
    """The body of a form with the picture in the part `file`."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="photo"\r\nContent-Type: {kind}\r\n\r\n'
    return head.encode() + picture + f"\r\n--{BOUNDARY}--\r\n".encode()


@dataclass
class Seen:
    """Seconds of each request, in the order in which they ended, and the errors."""

    seconds: list[float] = field(default_factory=list)
    errors: int = 0
    wall: float = 0
    last: bytes = b""
    timings: list[str] = field(default_factory=list)  # their Server-Timing headers

    def quantile(self, share: float) -> float:
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")

    @property
    def per_second(self) -> float:
        return len(self.seconds) / self.wall


def post(connection: http.client.HTTPConnection, body: bytes, seen: Seen, late: float = 0) -> None:
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    began = time.perf_counter()
    try:
        connection.request("POST", "/segment", body, headers)
        reply = connection.getresponse()
        content = reply.read()
    except (OSError, http.client.HTTPException):
        connection.close()
        seen.errors += 1
        return
    if reply.status == 200:
        seen.seconds.append(time.perf_counter() - began + late)
        seen.timings.append(reply.headers.get("Server-Timing", ""))
        seen.last = content
    else:
        seen.errors += 1


def closed(port: int, bodies: Sequence[bytes], clients: int, seconds: float = 0, requests: int = 0) -> Seen:
    """Each client posts as soon as it has its reply, for some seconds or some requests in all."""
    seen, began = Seen(), time.perf_counter()
    numbers = iter(range(requests or 10**9))
    lock = threading.Lock()

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        while not seconds or time.perf_counter() - began < seconds:
            with lock:
                number = next(numbers, None)
            if number is None:
                break
            post(connection, bodies[number % len(bodies)], seen)
        connection.close()

    _together([client] * clients)
    seen.wall = time.perf_counter() - began
    return seen


def opened(port: int, bodies: Sequence[bytes], rate: float, seconds: float, clients: int = 32) -> Seen:
    """Requests that begin at a fixed rate, whatever becomes of those before; late ones are counted from when they were due."""
    seen, began = Seen(), time.perf_counter()
    numbers = iter(range(int(rate * seconds)))
    lock = threading.Lock()

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                break
            due = began + number / rate
            time.sleep(max(0, due - time.perf_counter()))
            post(connection, bodies[number % len(bodies)], seen, time.perf_counter() - due)
        connection.close()

    _together([client] * clients)
    seen.wall = time.perf_counter() - began
    return seen


def _together(calls: Sequence) -> None:
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
