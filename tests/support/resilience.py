"""Bad days of a service: told to stop with requests in flight, killed while it evaluates, asked for more than it can do."""

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

from tests.support.sample_images import encoded, photo
from tests.support.service_process import Process

IN_FLIGHT = 8
PICTURE = encoded("JPEG", photo(512, 1024), quality=90)
HEAD = (
    f"POST /segment HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\nContent-Length: {len(PICTURE)}\r\n"
    "Expect: 100-continue\r\n\r\n"
).encode()


def stopped_with_requests_in_flight(checkpoint: Path, folder: Path, seed: int) -> list[str]:
    """SIGTERM with requests whose header was read whole, at all stages; what was wrong with it, if anything."""
    rng = random.Random(seed)
    service = Process(folder, SEGMENT_CHECKPOINTS=checkpoint)
    service.until_ready()
    accepted = threading.Barrier(IN_FLIGHT + 1)

    def client(number: int) -> str | None:
        with socket.create_connection(("127.0.0.1", service.port), timeout=30) as sock:
            sock.sendall(HEAD)
            if not sock.recv(1000).startswith(b"HTTP/1.1 100"):
                return "not accepted"
            sent = rng.randrange(len(PICTURE)) if number % 2 else len(PICTURE)
            sock.sendall(PICTURE[:sent])
            accepted.wait()
            time.sleep(0.02 * number)
            sock.sendall(PICTURE[sent:])
            told = b""
            while some := sock.recv(1 << 16):
                told += some
            return None if told.startswith(b"HTTP/1.1 200") else f"request {number}: {told[:80]!r}"

    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        replies = [pool.submit(client, number) for number in range(IN_FLIGHT)]
        accepted.wait(30)
        time.sleep(rng.uniform(0, 0.1))
        service.process.send_signal(signal.SIGTERM)
        wrong = [told for reply in replies if (told := reply.result())]
    code, out = service.ended()
    return wrong + [f"exit {code}"] * (code != 0) + ["a traceback"] * ("Traceback" in out)


def killed_while_it_evaluates(checkpoint: Path, data: Path, folder: Path, kills: int) -> list[str]:
    """SIGKILL after SIGKILL, each in the middle of an evaluation; what was wrong with the list or a file, if anything."""
    wrong: list[str] = []
    known: dict[str, str] = {}
    for number in range(kills + 1):
        service = Process(folder, SEGMENT_CHECKPOINTS=checkpoint, SEGMENT_DATA=data)
        service.until_ready()
        listed = {job["id"]: job["state"] for job in httpx.get(f"{service.url}/evaluate").json()["evaluations"]}
        if listed != known:
            wrong.append(f"start {number}: listed {listed}, expected {known}")
        wrong += [
            f"{path.name} is torn or left over" for path in (folder / "state" / "evaluations").iterdir() if not _whole(path)
        ]
        if number == kills:
            service.process.terminate()
            service.ended()
            return wrong
        job = httpx.post(f"{service.url}/evaluate").json()
        while not httpx.get(f"{service.url}/evaluate/{job['id']}").json()["progress"]["done"]:
            pass
        service.process.kill()
        service.ended()
        stored = json.loads((folder / "state" / "evaluations" / f"{job['id']}.json").read_text())
        if stored["state"] != "running":
            wrong.append(f"start {number}: not killed in the middle")  # more pictures are needed
        known[job["id"]] = "interrupted"
    return wrong


def _whole(path: Path) -> bool:
    try:
        return path.suffix == ".json" and bool(json.loads(path.read_text())["id"])
    except ValueError:
        return False


@dataclass
class Crowd:
    """What many clients and a watchman saw."""

    replies: Counter[str] = field(default_factory=Counter)
    health: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    seconds: float = 0

    @property
    def served(self) -> float:
        """Masks a second."""
        return self.replies["200"] / self.seconds

    @property
    def slowest_health(self) -> float:
        """p99 of /healthz in seconds."""
        return sorted(self.health)[int(0.99 * len(self.health))]


def crowded(service: Process, seconds: float, rate: float, clients: int = 48) -> Crowd:
    """Requests at a rate, whatever becomes of those before."""
    crowd, end = Crowd(seconds=seconds), time.monotonic() + seconds
    watched = psutil.Process(service.process.pid)

    def client() -> None:
        with httpx.Client(timeout=60) as session:
            while time.monotonic() < end:
                began = time.monotonic()
                try:
                    reply = session.post(f"{service.url}/segment", content=PICTURE)
                    told = str(reply.status_code)
                    if told != "200":
                        told += f" {reply.json()['code']}" + ("" if "retry-after" in reply.headers else " without Retry-After")
                except httpx.HTTPError as error:
                    told = type(error).__name__
                crowd.replies[told] += 1
                time.sleep(max(0, clients / rate - (time.monotonic() - began)))

    def watchman() -> None:
        with httpx.Client(timeout=60) as session:
            while time.monotonic() < end:
                began = time.monotonic()
                assert session.get(f"{service.url}/healthz").status_code == 200
                crowd.health.append(time.monotonic() - began)
                crowd.memory.append(watched.memory_info().rss)
                time.sleep(0.05)

    with ThreadPoolExecutor(clients + 1) as pool:
        for running in [pool.submit(client) for _ in range(clients)] + [pool.submit(watchman)]:
            running.result()
    return crowd


@contextmanager
def silent_sockets(service: Process, count: int) -> Iterator[None]:
    """So many connections that say nothing; one that the service closes is opened again."""
    over = threading.Event()

    def silent() -> None:
        while not over.is_set():
            with socket.create_connection(("127.0.0.1", service.port)) as sock:
                sock.settimeout(0.5)
                while not over.is_set():
                    try:
                        if not sock.recv(1):
                            break
                    except TimeoutError:
                        continue

    with ThreadPoolExecutor(max(count, 1)) as pool:
        running = [pool.submit(silent) for _ in range(count)]
        try:
            yield
        finally:
            over.set()
        for each in running:
            each.result()


def capacity(service: Process, seconds: float = 3) -> float:
    """Masks a second with four clients that ask one after another."""
    return crowded(service, seconds, 1e9, 4).served


def asked_for_four_times_what_it_can(checkpoint: Path, folder: Path, seconds: float, silent: int, **told: object) -> Crowd:
    """A crowd for some seconds, beside so many silent sockets."""
    service = Process(folder, SEGMENT_CHECKPOINTS=checkpoint, **told)
    try:
        service.until_ready()
        able = capacity(service, max(3, seconds / 6))
        with silent_sockets(service, silent):
            return crowded(service, seconds, 4 * able)
    finally:
        service.process.kill()
        service.ended()
