"""Two replicas behind HAProxy: one is killed, stopped or suspended under load, and clients that retry lose nothing."""

from __future__ import annotations

import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.support.paths import ROOT
from tests.support.prerequisites import require_programs
from tests.support.sample_images import encode_image, sample_image
from tests.support.service_process import ServiceProcess
from tests.support.wait import wait_until

MAX_ATTEMPTS = 5
RETRYABLE = {"502", "503", "504"}  # statuses after which a client may repeat a request, besides a failed connection


class Fleet:
    """Two replicas that share their evaluations, and HAProxy with the configuration of docs/haproxy.cfg."""

    def __init__(self, directory: Path, **settings: object) -> None:
        self.directory, self.settings = directory, {"SEGMENT_STATE": directory / "state", **settings}
        self.replicas = [self.start_replica(), self.start_replica()]
        config = (ROOT / "docs" / "haproxy.cfg").read_text()
        with socket.create_server(("127.0.0.1", 0)) as listener:  # HAProxy inherits the bound socket
            self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            for documented, actual in (
                ("bind 127.0.0.1:8080", f"bind fd@{listener.fileno()}"),
                ("127.0.0.1:8001", f"127.0.0.1:{self.replicas[0].port}"),
                ("127.0.0.1:8002", f"127.0.0.1:{self.replicas[1].port}"),
            ):
                assert documented in config
                config = config.replace(documented, actual)
            (directory / "haproxy.cfg").write_text(config)
            self.balancer = subprocess.Popen(["haproxy", "-f", directory / "haproxy.cfg"], pass_fds=[listener.fileno()])

    def start_replica(self, port: int = 0) -> ServiceProcess:
        """Start a replica on a port (0: a free one) and wait until it is ready."""
        replica = ServiceProcess(self.directory, **self.settings, SEGMENT_PORT=port)
        replica.wait_until_ready()
        return replica

    def is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def close(self) -> None:
        self.balancer.kill()
        self.balancer.wait()
        for replica in self.replicas:
            replica.kill()


@pytest.fixture
def fleet(tmp_path: Path, scenes: Path) -> Iterator[Fleet]:
    require_programs("haproxy", packages="haproxy")
    fleet = Fleet(tmp_path, SEGMENT_CHECKPOINTS="core/pretrained", SEGMENT_DATA=scenes)
    try:
        wait_until(fleet.is_ready, interval_s=0.05)
        yield fleet
    finally:
        fleet.close()


class RetryingClients:
    """Clients that post images one after another, and retry with backoff after a failed connection, 502, 503 or 504.

    Attributes:
        succeeded: number of masks received.
        retries: number of repeated requests.
        lost: last outcome of each request that failed MAX_ATTEMPTS times, or with another status.
    """

    def __init__(self, url: str, count: int = 4) -> None:
        self.url, self.succeeded, self.retries = url, 0, 0
        self.lost: list[str] = []
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._pool = ThreadPoolExecutor(count)
        self._image = encode_image("JPEG", sample_image(256, 512))
        self._tasks = [self._pool.submit(self._post_images) for _ in range(count)]

    def _post_images(self) -> None:
        while not self._stop.is_set():
            for attempt in range(MAX_ATTEMPTS):
                try:
                    outcome = str(httpx.post(f"{self.url}/segment", content=self._image, timeout=30).status_code)
                except httpx.TransportError as error:
                    outcome = type(error).__name__
                if outcome.isdigit() and outcome not in RETRYABLE:
                    break
                time.sleep(0.1 * 2**attempt)
            with self._lock:
                self.succeeded += outcome == "200"
                self.retries += attempt
                if outcome != "200":
                    self.lost.append(outcome)

    def wait_for_masks(self, count: int = 30) -> None:
        """Wait until so many more masks have been received."""
        target = self.succeeded + count
        wait_until(lambda: self.succeeded >= target, 60, interval_s=0.05)

    def __enter__(self) -> RetryingClients:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for task in self._tasks:
            task.result()
        self._pool.shutdown()


def requests_served(replica: ServiceProcess) -> float:
    """Return the number of requests that a replica has answered, by its metrics."""
    text = httpx.get(f"{replica.url}/metrics").text
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith("segment_requests_total{"))


@pytest.mark.parametrize("stop", [subprocess.Popen.kill, subprocess.Popen.terminate], ids=["kill", "terminate"])
def test_replica_that_stops_and_restarts_under_load_loses_no_request(
    fleet: Fleet, stop: Callable[[subprocess.Popen[bytes]], None]
) -> None:
    with RetryingClients(fleet.url) as clients:
        clients.wait_for_masks()
        stopped = fleet.replicas[0]
        stop(stopped.process)
        stopped.process.wait(30)
        clients.wait_for_masks(60)
        restarted = fleet.replicas[0] = fleet.start_replica(stopped.port)
        wait_until(lambda: requests_served(restarted) > 0, interval_s=0.05)
        clients.wait_for_masks()
    assert not clients.lost
    assert clients.retries <= 8 * MAX_ATTEMPTS  # only what was in flight in the stopped replica is retried


def test_replicas_share_load_and_evaluations(fleet: Fleet) -> None:
    with RetryingClients(fleet.url) as clients:
        clients.wait_for_masks(60)
    served = [requests_served(replica) for replica in fleet.replicas]
    assert not clients.lost and min(served) > 0.25 * sum(served), served
    location = httpx.post(f"{fleet.url}/evaluate?wait=true", timeout=120).headers["location"]
    lists = [httpx.get(f"{replica.url}/evaluate").json()["evaluations"] for replica in fleet.replicas]
    assert lists[0] == lists[1] and lists[0][0]["state"] == "done"
    assert all(httpx.get(f"{replica.url}{location}").json()["report"] for replica in fleet.replicas)


def test_balancer_denies_reload_that_would_reach_one_replica_only(fleet: Fleet) -> None:
    assert httpx.post(f"{fleet.url}/models/ddunet/reload").status_code == 403
    assert httpx.post(f"{fleet.replicas[0].url}/models/ddunet/reload").status_code == 200


def test_balancer_routes_around_suspended_replica(fleet: Fleet) -> None:
    """A suspended replica still accepts connections; only its missing answers on /readyz show that it is not available."""

    def segment() -> int:
        return httpx.post(f"{fleet.url}/segment", content=encode_image()).status_code

    suspended = fleet.replicas[1]
    suspended.process.send_signal(signal.SIGSTOP)
    try:
        time.sleep(6)  # two health checks that time out after 2 s each
        began = time.monotonic()
        assert all(segment() == 200 for _ in range(20))
        assert time.monotonic() - began < 10
    finally:
        suspended.process.send_signal(signal.SIGCONT)
    before = requests_served(suspended)
    wait_until(lambda: segment() == 200 and requests_served(suspended) > before, interval_s=0.05)
