"""Generate load: clients in threads, each with its own connection, that post images to /segment."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

BOUNDARY = "segment-benchmark"


def form_body(image: bytes, content_type: str) -> bytes:
    """Return the body of a multipart form with the image in the part `file`."""
    headers = f'Content-Disposition: form-data; name="file"; filename="image"\r\nContent-Type: {content_type}\r\n\r\n'
    return f"--{BOUNDARY}\r\n{headers}".encode() + image + f"\r\n--{BOUNDARY}--\r\n".encode()


@dataclass
class LoadResult:
    """What the clients observed.

    Attributes:
        latencies: seconds of each successful request, in the order in which the requests ended.
        errors: number of failed requests.
        wall_seconds: duration of the whole load.
        last_body: body of the last successful response.
        server_timings: Server-Timing headers of the successful responses.
    """

    latencies: list[float] = field(default_factory=list)
    errors: int = 0
    wall_seconds: float = 0
    last_body: bytes = b""
    server_timings: list[str] = field(default_factory=list)

    def quantile(self, q: float) -> float:
        """Return a quantile of the latencies in seconds, NaN without any."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else float("nan")

    @property
    def requests_per_second(self) -> float:
        return len(self.latencies) / self.wall_seconds


def post(connection: http.client.HTTPConnection, body: bytes, result: LoadResult, delay: float = 0) -> None:
    """Post a form and record the response; `delay` seconds before the request count as part of its latency."""
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    began = time.perf_counter()
    try:
        connection.request("POST", "/segment", body, headers)
        response = connection.getresponse()
        content = response.read()
    except (OSError, http.client.HTTPException):
        connection.close()
        result.errors += 1
        return
    if response.status == 200:
        result.latencies.append(time.perf_counter() - began + delay)
        result.server_timings.append(response.headers.get("Server-Timing", ""))
        result.last_body = content
    else:
        result.errors += 1


def closed_loop(port: int, bodies: Sequence[bytes], clients: int, seconds: float = 0, requests: int = 0) -> LoadResult:
    """Let each client post its next image right after its last response, for a duration or a number of requests."""
    result, began = LoadResult(), time.perf_counter()
    numbers = _Counter(requests or 10**9)

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        while not seconds or time.perf_counter() - began < seconds:
            if (number := numbers.take()) is None:
                break
            post(connection, bodies[number % len(bodies)], result)
        connection.close()

    _run_in_threads(client, clients)
    result.wall_seconds = time.perf_counter() - began
    return result


def open_loop(port: int, bodies: Sequence[bytes], rate: float, seconds: float, clients: int = 32) -> LoadResult:
    """Start requests at a fixed rate, independent of earlier responses; latencies count from the scheduled start."""
    result, began = LoadResult(), time.perf_counter()
    numbers = _Counter(int(rate * seconds))

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        while (number := numbers.take()) is not None:
            scheduled = began + number / rate
            time.sleep(max(0, scheduled - time.perf_counter()))
            post(connection, bodies[number % len(bodies)], result, time.perf_counter() - scheduled)
        connection.close()

    _run_in_threads(client, clients)
    result.wall_seconds = time.perf_counter() - began
    return result


class _Counter:
    """Hands out 0, 1, ... `stop` - 1 to several threads, and None after that."""

    def __init__(self, stop: int) -> None:
        self._numbers, self._lock = iter(range(stop)), threading.Lock()

    def take(self) -> int | None:
        with self._lock:
            return next(self._numbers, None)


def _run_in_threads(target: Callable[[], None], count: int) -> None:
    threads = [threading.Thread(target=target) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
