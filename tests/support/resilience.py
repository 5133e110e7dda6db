"""Stress the service: stop it with requests in flight, kill it during evaluations, and overload it."""

from __future__ import annotations

import json
import random
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from tests.support.sample_images import encode_image, sample_image
from tests.support.service_process import ServiceProcess

IN_FLIGHT = 8
IMAGE = encode_image("JPEG", sample_image(512, 1024), quality=90)
REQUEST_HEADERS = (
    f"POST /segment HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\nContent-Length: {len(IMAGE)}\r\n"
    "Expect: 100-continue\r\n\r\n"
).encode()


def problems_after_sigterm(checkpoint: Path, directory: Path, seed: int) -> list[str]:
    """Send SIGTERM while requests are in flight at all stages; return what went wrong, an empty list if nothing did.

    Every request whose headers the service has accepted must be answered, and the service must exit with 0.
    """
    rng = random.Random(seed)
    service = ServiceProcess(directory, SEGMENT_CHECKPOINTS=checkpoint)
    service.wait_until_ready()
    accepted = threading.Barrier(IN_FLIGHT + 1)

    def send_request(number: int) -> str | None:
        with socket.create_connection(("127.0.0.1", service.port), timeout=30) as sock:
            sock.sendall(REQUEST_HEADERS)
            if not sock.recv(1000).startswith(b"HTTP/1.1 100"):
                return "not accepted"
            sent_before_signal = rng.randrange(len(IMAGE)) if number % 2 else len(IMAGE)
            sock.sendall(IMAGE[:sent_before_signal])
            accepted.wait()
            time.sleep(0.02 * number)
            sock.sendall(IMAGE[sent_before_signal:])
            response = b""
            while received := sock.recv(1 << 16):
                response += received
            return None if response.startswith(b"HTTP/1.1 200") else f"request {number}: {response[:80]!r}"

    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        requests = [pool.submit(send_request, number) for number in range(IN_FLIGHT)]
        accepted.wait(30)
        time.sleep(rng.uniform(0, 0.1))
        service.process.send_signal(signal.SIGTERM)
        problems = [problem for request in requests if (problem := request.result())]
    code, log = service.wait_for_exit()
    return problems + [f"exit code {code}"] * (code != 0) + ["a traceback in the log"] * ("Traceback" in log)


def problems_after_kills(checkpoint: Path, data: Path, directory: Path, kills: int) -> list[str]:
    """Kill the service `kills` times in the middle of an evaluation; return what was wrong after each restart.

    Each restart must list all evaluations so far as interrupted, and find no torn or temporary file.
    """
    problems: list[str] = []
    expected: dict[str, str] = {}
    for number in range(kills + 1):
        service = ServiceProcess(directory, SEGMENT_CHECKPOINTS=checkpoint, SEGMENT_DATA=data)
        service.wait_until_ready()
        listed = {job["id"]: job["state"] for job in httpx.get(f"{service.url}/evaluate").json()["evaluations"]}
        if listed != expected:
            problems.append(f"start {number}: listed {listed}, expected {expected}")
        files = (directory / "state" / "evaluations").iterdir()
        problems += [f"start {number}: {path.name} is torn or temporary" for path in files if not _is_valid_job(path)]
        if number == kills:
            service.process.terminate()
            service.wait_for_exit()
            return problems
        job = httpx.post(f"{service.url}/evaluate").json()
        while not httpx.get(f"{service.url}/evaluate/{job['id']}").json()["progress"]["done"]:
            pass
        service.kill()
        stored = json.loads((directory / "state" / "evaluations" / f"{job['id']}.json").read_text())
        if stored["state"] != "running":
            problems.append(f"start {number}: the evaluation ended before it was killed; use more images")
        expected[job["id"]] = "interrupted"
    return problems


def _is_valid_job(path: Path) -> bool:
    try:
        return path.suffix == ".json" and bool(json.loads(path.read_text())["id"])
    except ValueError:
        return False


@dataclass
class LoadStats:
    """What clients and a monitor observed under load.

    Attributes:
        responses: number of responses by status and error code, such as "200" or "503 overloaded".
        health_latencies: seconds that each request for /healthz took.
        rss_samples: resident bytes of the service.
        seconds: duration of the load.
    """

    responses: Counter[str] = field(default_factory=Counter)
    health_latencies: list[float] = field(default_factory=list)
    rss_samples: list[float] = field(default_factory=list)
    seconds: float = 0

    @property
    def masks_per_second(self) -> float:
        return self.responses["200"] / self.seconds

    @property
    def health_p99(self) -> float:
        """99th percentile of the latency of /healthz, in seconds."""
        return sorted(self.health_latencies)[int(0.99 * len(self.health_latencies))]


def generate_load(service: ServiceProcess, seconds: float, rate: float, clients: int = 48) -> LoadStats:
    """Post images at up to `rate` requests per second from several clients, and monitor /healthz and memory meanwhile."""
    stats, end = LoadStats(seconds=seconds), time.monotonic() + seconds
    process = psutil.Process(service.process.pid)

    def post_images() -> None:
        with httpx.Client(timeout=60) as session:
            while time.monotonic() < end:
                began = time.monotonic()
                try:
                    response = session.post(f"{service.url}/segment", content=IMAGE)
                    outcome = str(response.status_code)
                    if outcome != "200":
                        outcome += f" {response.json()['code']}"
                        outcome += "" if "retry-after" in response.headers else " without Retry-After"
                except httpx.HTTPError as error:
                    outcome = type(error).__name__
                stats.responses[outcome] += 1
                time.sleep(max(0, clients / rate - (time.monotonic() - began)))

    def monitor() -> None:
        with httpx.Client(timeout=60) as session:
            while time.monotonic() < end:
                began = time.monotonic()
                assert session.get(f"{service.url}/healthz").status_code == 200
                stats.health_latencies.append(time.monotonic() - began)
                stats.rss_samples.append(process.memory_info().rss)
                time.sleep(0.05)

    with ThreadPoolExecutor(clients + 1) as pool:
        for task in [pool.submit(post_images) for _ in range(clients)] + [pool.submit(monitor)]:
            task.result()
    return stats


@contextmanager
def idle_connections(service: ServiceProcess, count: int) -> Iterator[None]:
    """Hold `count` connections open that send nothing; a connection that the service closes is reopened."""
    stop = threading.Event()

    def hold_connection() -> None:
        while not stop.is_set():
            with socket.create_connection(("127.0.0.1", service.port)) as sock:
                sock.settimeout(0.5)
                while not stop.is_set():
                    try:
                        if not sock.recv(1):
                            break
                    except TimeoutError:
                        continue

    with ThreadPoolExecutor(max(count, 1)) as pool:
        tasks = [pool.submit(hold_connection) for _ in range(count)]
        try:
            yield
        finally:
            stop.set()
        for task in tasks:
            task.result()


def measure_capacity(service: ServiceProcess, seconds: float = 3) -> float:
    """Return the masks per second that four clients get when each posts its next image after the last response."""
    return generate_load(service, seconds, rate=1e9, clients=4).masks_per_second


def run_overload(checkpoint: Path, directory: Path, seconds: float, idle: int, **settings: object) -> LoadStats:
    """Load a new service with four times the requests that it can answer, next to `idle` idle connections."""
    service = ServiceProcess(directory, SEGMENT_CHECKPOINTS=checkpoint, **settings)
    try:
        service.wait_until_ready()
        capacity = measure_capacity(service, max(3, seconds / 6))
        with idle_connections(service, idle):
            return generate_load(service, seconds, 4 * capacity)
    finally:
        service.kill()
