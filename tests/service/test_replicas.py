"""Several services that share the folder of their evaluations, as replicas behind a balancer do."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.service.conftest import shut, until
from tests.service.test_evaluations import events, finished


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
