"""Several services that share the directory of their evaluations, like replicas behind a load balancer."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from tests.support.checkpoints import make_checkpoints
from tests.support.evaluations import on_evaluation_event, read_events, wait_for_evaluation
from tests.support.fake_backends import block_workers
from tests.support.live_server import Serve
from tests.support.wait import wait_until


@pytest.fixture
def replicas(serve: Serve, scenes: Path, tmp_path: Path) -> tuple[TestClient, TestClient]:
    """Two services with the same state directory and dataset."""
    first, second = (serve(data=scenes, state=tmp_path / "shared") for _ in range(2))
    return first, second


def test_every_replica_lists_all_reports(replicas: tuple[TestClient, TestClient]) -> None:
    first, second = replicas
    location = first.post("/evaluate?wait=true").headers["location"]
    assert second.get("/evaluate").json() == first.get("/evaluate").json()
    assert second.get(location).json() == first.get(location).json() and second.get(location).json()["report"]


def test_replica_follows_evaluation_of_other_and_does_not_start_it_again(
    replicas: tuple[TestClient, TestClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = replicas
    blocker = block_workers(first.app)
    location = first.post("/evaluate").headers["location"]
    duplicate = second.post("/evaluate")
    assert (duplicate.status_code, duplicate.headers["location"]) == (409, location)
    on_evaluation_event(monkeypatch, second, blocker.release)
    states = [state for state, _ in read_events(second, location)]
    assert states[0] in ("queued", "running") and states[-1] == "done"


def test_new_replica_does_not_interrupt_evaluation_of_other(serve: Serve, scenes: Path, tmp_path: Path) -> None:
    first = serve(data=scenes, state=tmp_path / "shared")
    blocker = block_workers(first.app)
    location = first.post("/evaluate").headers["location"]
    assert serve(data=scenes, state=tmp_path / "shared").get(location).json()["state"] in ("queued", "running")
    blocker.release()
    assert wait_for_evaluation(first, location)["state"] == "done"


def test_replica_cancels_running_evaluation_of_other(replicas: tuple[TestClient, TestClient], tmp_path: Path) -> None:
    first, second = replicas
    blocker = block_workers(first.app)
    location = first.post("/evaluate").headers["location"]
    assert second.delete(location).status_code == 204
    blocker.release()
    wait_until(lambda: first.get(location).json()["state"] == "cancelled")
    assert second.delete(location).json()["code"] == "evaluation_finished"
    assert [path.suffix for path in (tmp_path / "shared" / "evaluations").iterdir()] == [".json"]


def test_evaluation_whose_lock_cannot_be_opened_is_interrupted_once_its_file_is_stale(
    serve: Serve, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = serve(data=scenes)
    location = client.post("/evaluate?wait=true").headers["location"]
    finished = tmp_path / "state" / "evaluations" / f"{location.rpartition('/')[2]}.json"
    running = {**json.loads(finished.read_text()), "id": "x", "state": "running", "report": None}
    finished.with_name("x.json").write_text(json.dumps(running))
    lock = finished.with_name("x.lock")
    lock.symlink_to(lock)  # It can't be opened, not even by root.
    assert client.get("/evaluate/x").json()["state"] == "running"
    assert client.post("/evaluate").json()["code"] == "evaluation_running"
    monkeypatch.setattr("service.evaluation.store.STALE_AFTER_S", 0)
    assert client.delete("/evaluate/x").json()["code"] == "evaluation_finished"
    assert client.post("/evaluate?wait=true").status_code == 200


def test_only_one_of_several_replicas_starts_simultaneous_evaluation(serve: Serve, scenes: Path, tmp_path: Path) -> None:
    clients = [serve(data=scenes, state=tmp_path / "shared") for _ in range(4)]
    blockers = [block_workers(client.app) for client in clients]
    with ThreadPoolExecutor(4) as pool:
        statuses = sorted(response.status_code for response in pool.map(lambda client: client.post("/evaluate"), clients))
    assert statuses == [202, 409, 409, 409]
    for blocker in blockers:
        blocker.release()


def test_replica_cancels_queued_evaluation_of_other(
    serve: Serve, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.evaluation.manager.SAVE_INTERVAL_S", 0)
    checkpoints = make_checkpoints(tmp_path / "models", "first", "second")
    first, second = (serve(data=scenes, checkpoints=[checkpoints], state=tmp_path / "shared") for _ in range(2))
    # Long pauses between images keep the first evaluation running until the queued one has been cancelled.
    monkeypatch.setattr(first.app.state.evaluations.runner, "idle_seconds", lambda: 0)
    monkeypatch.setattr("service.evaluation.runner.PAUSE_RATIO", 200.0)
    running, queued = (first.post(f"/evaluate?model={name}").headers["location"] for name in ("first", "second"))
    with ThreadPoolExecutor(1) as pool:
        cancellation = pool.submit(second.delete, queued)
        wait_until(lambda: (tmp_path / "shared" / "evaluations" / f"{queued.rpartition('/')[2]}.cancel").exists())
        assert cancellation.result().status_code == 204
    job = first.get(queued).json()
    assert job["state"] == "cancelled" and job["started"] is None
    first.delete(running)
