"""Several services that share the folder of their evaluations, as replicas behind a balancer do."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.conftest import make_checkpoint
from tests.integration.service.conftest import shut, until
from tests.integration.service.test_evaluations import events, finished
from tests.support.service_process import Process
from training.commands.synthesize import write_scene


def test_every_replica_lists_the_reports_of_all(serve, scenes: Path, tmp_path: Path) -> None:
    one, other = (serve(data=scenes, state=tmp_path / "shared") for _ in range(2))
    location = one.post("/evaluate?wait=true").headers["location"]
    assert other.get("/evaluate").json() == one.get("/evaluate").json()
    assert other.get(location).json() == one.get(location).json() and other.get(location).json()["report"]


def test_what_runs_elsewhere_is_followed_and_not_begun_twice(serve, scenes: Path, tmp_path: Path) -> None:
    one, other = (serve(data=scenes, state=tmp_path / "shared") for _ in range(2))
    gate = shut(one.app)
    location = one.post("/evaluate").headers["location"]
    again = other.post("/evaluate")
    assert (again.status_code, again.headers["location"]) == (409, location)
    with ThreadPoolExecutor(1) as pool:
        told = pool.submit(events, other, location)
        time.sleep(0.5)
        gate.set()
        states = [state for state, _ in told.result()]
    assert states[0] in ("queued", "running") and states[-1] == "done"


def test_a_replica_that_starts_leaves_alone_what_runs_elsewhere(serve, scenes: Path, tmp_path: Path) -> None:
    one = serve(data=scenes, state=tmp_path / "shared")
    gate = shut(one.app)
    location = one.post("/evaluate").headers["location"]
    assert serve(data=scenes, state=tmp_path / "shared").get(location).json()["state"] in ("queued", "running")
    gate.set()
    assert finished(one, location)["state"] == "done"


def test_what_runs_elsewhere_can_be_cancelled(serve, scenes: Path, tmp_path: Path) -> None:
    one, other = (serve(data=scenes, state=tmp_path / "shared") for _ in range(2))
    gate = shut(one.app)
    location = one.post("/evaluate").headers["location"]
    assert other.delete(location).status_code == 204
    gate.set()
    until(lambda: one.get(location).json()["state"] == "cancelled")
    assert other.delete(location).json()["code"] == "evaluation_finished"
    assert [path.suffix for path in (tmp_path / "shared" / "evaluations").iterdir()] == [".json"]


def test_of_two_replicas_that_are_asked_at_once_one_begins(serve, scenes: Path, tmp_path: Path) -> None:
    replicas = [serve(data=scenes, state=tmp_path / "shared") for _ in range(4)]
    gates = [shut(replica.app) for replica in replicas]
    with ThreadPoolExecutor(4) as pool:
        codes = sorted(reply.status_code for reply in pool.map(lambda replica: replica.post("/evaluate"), replicas))
    assert codes == [202, 409, 409, 409]
    for gate in gates:
        gate.set()


def test_what_a_replica_was_at_when_it_was_killed_is_interrupted_and_begun_anew_by_another(tmp_path: Path) -> None:
    for index in range(60):
        write_scene(tmp_path / "scenes", "val", index, (256, 512), seed=0)
    settings = {"SEGMENT_CHECKPOINTS": "core/pretrained", "SEGMENT_DATA": tmp_path / "scenes"}
    replicas = [Process(tmp_path, **settings) for _ in range(2)]
    try:
        for replica in replicas:
            replica.until_ready()
        killed, other = replicas
        location = httpx.post(f"{killed.url}/evaluate").headers["location"]
        assert httpx.post(f"{other.url}/evaluate").headers["location"] == location
        killed.process.kill()
        killed.process.wait()
        assert httpx.get(f"{other.url}{location}").json()["state"] == "interrupted"
        again = httpx.post(f"{other.url}/evaluate?wait=true", timeout=60)
        assert again.status_code == 200 and again.headers["location"] != location
    finally:
        for replica in replicas:
            replica.process.kill()
            replica.process.wait()


def test_what_waits_in_the_queue_elsewhere_can_be_cancelled(
    serve, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.evaluation.manager.STORED_S", 0)
    for seed, name in enumerate(("first", "second")):
        make_checkpoint(tmp_path / "two" / f"{name}.safetensors", seed=seed)
    one, other = (serve(data=scenes, checkpoints=[tmp_path / "two"], state=tmp_path / "shared") for _ in range(2))
    monkeypatch.setattr(one.app.state.evaluations.scoring, "quiet_s", lambda: 0)  # so that it rests, and takes its time
    monkeypatch.setattr("service.evaluation.runner.REST", 200.0)
    running, waiting = (one.post(f"/evaluate?model={name}").headers["location"] for name in ("first", "second"))
    with ThreadPoolExecutor(1) as pool:
        gone = pool.submit(other.delete, waiting)
        until(lambda: (tmp_path / "shared" / "evaluations" / f"{waiting.rpartition('/')[2]}.cancel").exists())
        assert gone.result().status_code == 204
    assert one.get(waiting).json()["state"] == "cancelled" and one.get(waiting).json()["started"] is None
    one.delete(running)
