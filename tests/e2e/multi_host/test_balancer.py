"""Two replicas behind HAProxy: one is killed, stopped and started under load, and who tries again loses nothing."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.e2e.containers.run import leave_out, require_asked
from tests.support.sample_images import encoded, photo
from tests.support.service_process import ROOT, Process

TRIES = 5


class Fleet:
    """Two replicas that share their evaluations, and a balancer with the configuration of docs/haproxy.cfg."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.folder, self.settings = folder, {"SEGMENT_STATE": folder / "state", **settings}
        self.replicas = [self.start(), self.start()]
        text = (ROOT / "docs" / "haproxy.cfg").read_text()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        for shown, real in ((8080, port), (8001, self.replicas[0].port), (8002, self.replicas[1].port)):
            assert f"127.0.0.1:{shown}" in text
            text = text.replace(f"127.0.0.1:{shown}", f"127.0.0.1:{real}")
        (folder / "haproxy.cfg").write_text(text)
        self.balancer = subprocess.Popen(["haproxy", "-f", folder / "haproxy.cfg"])
        self.url = f"http://127.0.0.1:{port}"

    def start(self, port: int | None = None) -> Process:
        replica = Process(self.folder, **self.settings, **({"SEGMENT_PORT": port} if port else {}))
        replica.port = port or replica.port
        replica.until_ready()
        return replica

    def end(self) -> None:
        self.balancer.kill()
        for replica in self.replicas:
            replica.process.kill()
            replica.process.wait()
        self.balancer.wait()


@pytest.fixture
def fleet(tmp_path: Path, scenes: Path) -> Iterator[Fleet]:
    require_asked()
    if not shutil.which("haproxy"):
        leave_out("haproxy is not there: apt-get install haproxy")
    made = Fleet(tmp_path, SEGMENT_CHECKPOINTS="core/pretrained", SEGMENT_DATA=scenes)
    try:
        until(lambda: httpx.get(f"{made.url}/readyz").status_code == 200)
        yield made
    finally:
        made.end()


def until(holds, seconds: float = 20) -> None:  # type: ignore[no-untyped-def]
    end = time.monotonic() + seconds
    while True:
        try:
            if holds():
                return
        except httpx.TransportError:
            pass
        assert time.monotonic() < end
        time.sleep(0.05)


class Clients:
    """Some that post one photograph after another, and try again where they may: no answer, 502, 503 or 504."""

    def __init__(self, url: str, count: int = 4) -> None:
        self.url, self.done, self.again, self.lost = url, 0, 0, []  # type: ignore[var-annotated]
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._pool = ThreadPoolExecutor(count)
        self._picture = encoded("JPEG", photo(256, 512))
        self._running = [self._pool.submit(self._post) for _ in range(count)]

    def _post(self) -> None:
        while not self._stop.is_set():
            for attempt in range(TRIES):
                try:
                    reply = httpx.post(f"{self.url}/segment", content=self._picture, timeout=30)
                    told = str(reply.status_code)
                except httpx.TransportError as error:
                    told = type(error).__name__
                if told == "200" or (told.isdigit() and told not in ("502", "503", "504")):
                    break
                time.sleep(0.1 * 2**attempt)
            with self._lock:
                self.done += told == "200"
                self.again += attempt
                if told != "200":
                    self.lost.append(told)

    def some_more(self, count: int = 30) -> None:
        wanted = self.done + count
        until(lambda: self.done >= wanted, 60)

    def __enter__(self) -> Clients:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for each in self._running:
            each.result()
        self._pool.shutdown()


@pytest.mark.parametrize("how", ["kill", "terminate"])
def test_a_replica_goes_and_comes_back_under_load_and_nothing_is_lost(fleet: Fleet, how: str) -> None:
    with Clients(fleet.url) as clients:
        clients.some_more()
        gone = fleet.replicas[0]
        getattr(gone.process, how)()
        gone.process.wait(30)
        clients.some_more(60)
        again = fleet.start(gone.port)
        fleet.replicas[0] = again
        until(lambda: served(again) > 0)  # it gets its share
        clients.some_more()
    print(how, "tried again:", clients.again)
    assert not clients.lost
    assert clients.again <= 8 * TRIES, clients.again  # what was inside the one that went, not a storm


def served(replica: Process) -> float:
    """Photographs that a replica has answered."""
    text = httpx.get(f"{replica.url}/metrics").text
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith("segment_requests_total{"))


def test_both_replicas_share_the_load_and_list_each_other_s_evaluations(fleet: Fleet) -> None:
    with Clients(fleet.url) as clients:
        clients.some_more(60)
    shares = [served(replica) for replica in fleet.replicas]
    assert not clients.lost and min(shares) > 0.25 * sum(shares), shares
    location = httpx.post(f"{fleet.url}/evaluate?wait=true", timeout=120).headers["location"]
    lists = [httpx.get(f"{replica.url}/evaluate").json()["evaluations"] for replica in fleet.replicas]
    assert lists[0] == lists[1] and lists[0][0]["state"] == "done"
    assert all(httpx.get(f"{replica.url}{location}").json()["report"] for replica in fleet.replicas)


def test_a_balancer_lets_no_reload_through_that_would_reach_one_replica_only(fleet: Fleet) -> None:
    assert httpx.post(f"{fleet.url}/models/ddunet/reload").status_code == 403
    assert httpx.post(f"{fleet.replicas[0].url}/models/ddunet/reload").status_code == 200


def test_a_balancer_sends_nothing_to_a_replica_that_answers_no_more(fleet: Fleet) -> None:
    """It still takes connections: only its silence on /readyz tells."""
    asleep = fleet.replicas[1].process
    asleep.send_signal(signal.SIGSTOP)
    try:
        time.sleep(6)  # two checks of 2 s
        began = time.monotonic()
        assert all(httpx.post(f"{fleet.url}/segment", content=encoded()).status_code == 200 for _ in range(20))
        assert time.monotonic() - began < 10
    finally:
        asleep.send_signal(signal.SIGCONT)
    before = served(fleet.replicas[1])
    until(
        lambda: httpx.post(f"{fleet.url}/segment", content=encoded()).status_code == 200 and served(fleet.replicas[1]) > before
    )
