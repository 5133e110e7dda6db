"""Admission control: limits of requests, pixels and multi-pass requests in flight, deadlines, and Retry-After."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient

from service.api.problems import ProblemError
from service.inference.admission import AdmissionController
from service.inference.registry import LoadedModel, ModelEntry
from service.inference.service import TILING_THREADS_PER_DEVICE
from tests.support.checkpoints import make_checkpoints
from tests.support.fake_backends import block_workers
from tests.support.live_server import Serve
from tests.support.sample_images import encode_image
from tests.support.wait import wait_until

PNG = encode_image()


def assert_problem(response: httpx.Response, code: str) -> None:
    """Check that a response is a 503 with an error code and a Retry-After header."""
    assert (response.status_code, response.json()["code"]) == (503, code)
    assert int(response.headers["retry-after"]) >= 1


@contextmanager
def request_in_flight(client: TestClient) -> Iterator[None]:
    """Keep one request waiting for inference during the block, and check that it is answered afterwards."""
    blocker, admission = block_workers(client.app), client.app.state.inference.admission
    with ThreadPoolExecutor(1) as pool:
        request = pool.submit(client.post, "/segment", content=PNG)
        try:
            wait_until(lambda: admission.pixels)
            yield
        finally:
            blocker.release()
        assert request.result().status_code == 200


def test_request_beyond_queue_limit_returns_503(serve: Serve) -> None:
    client = serve(queue=1)
    with request_in_flight(client):
        assert_problem(client.post("/segment", content=PNG), "overloaded")
    assert client.post("/segment", content=PNG).status_code == 200


def test_pixel_limit_returns_503_but_admits_one_large_image(serve: Serve) -> None:
    client = serve(queue_megapixels=0.001)  # less than one image
    with request_in_flight(client):
        assert_problem(client.post("/segment", content=PNG), "overloaded")
    assert client.app.state.inference.admission.pixels == 0


def test_request_whose_deadline_passed_in_queue_returns_503(serve: Serve) -> None:
    client = serve()
    blocker = block_workers(client.app)
    (worker,) = client.app.state.inference.workers.workers
    with ThreadPoolExecutor(1) as pool:
        request = pool.submit(client.post, "/segment", content=PNG)
        # Of the queued tasks, only that of the request has a deadline, not that of the blocker.
        wait_until(lambda: any(task.deadline is not None for task in list(worker._tasks)))
        (task,) = [task for task in worker._tasks if task.deadline is not None]
        task.deadline = 0  # in the past
        blocker.release()
        assert_problem(request.result(), "deadline_exceeded")
    assert "segment_batch_size_count 2.0" in client.get("/metrics").text  # the warm-up and the blocker


def test_request_returns_503_at_deadline_while_model_is_loading(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = serve(checkpoints=[make_checkpoints(tmp_path / "models", "a", "b")], deadline=0.2)
    registry, may_load = client.app.state.registry, threading.Event()
    original = registry._load

    def load(entry: ModelEntry) -> LoadedModel:
        may_load.wait(20)
        return original(entry)

    monkeypatch.setattr(registry, "_load", load)
    assert_problem(client.post("/segment?model=b", content=PNG), "deadline_exceeded")
    may_load.set()
    client.app.state.inference.admission.deadline_s = math.inf
    assert client.post("/segment?model=b", content=PNG).status_code == 200


def test_multi_pass_requests_leave_capacity_for_others(serve: Serve) -> None:
    client = serve(queue=4)
    blocker, admission = block_workers(client.app), client.app.state.inference.admission
    with ThreadPoolExecutor(2) as pool:
        multi_pass = pool.submit(client.post, "/segment?flip=true", content=PNG)
        wait_until(lambda: admission.multi_pass)
        assert_problem(client.post("/segment?resolution=native", content=PNG), "overloaded")
        single_pass = pool.submit(client.post, "/segment", content=PNG)
        wait_until(lambda: admission.requests == 2)
        blocker.release()
        assert multi_pass.result().status_code == single_pass.result().status_code == 200
    assert client.post("/segment?flip=true", content=PNG).status_code == 200


def test_multi_pass_request_without_free_thread_returns_503_at_deadline(serve: Serve) -> None:
    client = serve()
    blocker, admission = block_workers(client.app), client.app.state.inference.admission
    with ThreadPoolExecutor(TILING_THREADS_PER_DEVICE) as pool:
        busy = [pool.submit(client.post, "/segment?flip=true", content=PNG) for _ in range(TILING_THREADS_PER_DEVICE)]
        wait_until(lambda: admission.multi_pass == TILING_THREADS_PER_DEVICE)
        admission.deadline_s = 0.2  # of later requests
        assert_problem(client.post("/segment?flip=true", content=PNG), "deadline_exceeded")  # before the worker is released
        blocker.release()
        assert {request.result().status_code for request in busy} == {200}
    assert admission.requests == 0


def test_retry_after_is_proportional_to_requests_in_flight() -> None:
    admission = AdmissionController(3, 10**9)
    with admission.admit(), admission.admit():
        admission._mean_departure_interval_s = 4
        with admission.admit(), pytest.raises(ProblemError) as error, admission.admit():
            pass
    assert error.value.headers == {"Retry-After": "12"}


def test_idle_time_starts_when_last_request_ends() -> None:
    admission = AdmissionController(2, 10)
    assert admission.idle_seconds() == math.inf
    with admission.admit():
        assert admission.idle_seconds() == 0
    assert 0 <= admission.idle_seconds() < math.inf


def test_ended_request_cannot_reserve_pixels() -> None:
    admission = AdmissionController(1, 10)
    with admission.admit() as slot:
        slot.reserve_pixels(5)
    with pytest.raises(ProblemError):
        slot.reserve_pixels(5)
    assert (admission.requests, admission.pixels) == (0, 0)


def test_next_image_of_request_reuses_its_pixels() -> None:
    admission = AdmissionController(2, 10)
    with admission.admit() as slot, admission.admit() as other:
        slot.reserve_pixels(6)
        other.reserve_pixels(4)
        slot.reserve_pixels(6)
        assert admission.pixels == 10
        with pytest.raises(ProblemError):
            slot.reserve_pixels(7)
    assert admission.pixels == 0
