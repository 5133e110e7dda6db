"""`/evaluate`: the served artefact on the service's data, as jobs that outlive a restart."""

from __future__ import annotations

import gc
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from service.evaluation.manager import Evaluations
from service.inference.registry import Loaded
from tests.conftest import make_checkpoint
from tests.integration.service.conftest import shut, until
from tests.support.sample_images import encoded


def finished(client, location: str) -> dict:
    for _ in range(400):
        job = client.get(location).json()
        if job["state"] not in ("queued", "running"):
            return job
        time.sleep(0.05)
    raise AssertionError("the evaluation did not end")


def test_a_job_ends_with_the_report_of_the_command_line(serve, scenes: Path, checkpoint: Path, tmp_path: Path, cli) -> None:
    client = serve(data=scenes)
    started = client.post("/evaluate")
    assert started.status_code == 202
    job = finished(client, started.headers["location"])
    assert (job["state"], job["progress"], job["model"]) == ("done", {"done": 5, "total": 5}, "random")
    cli("evaluate", checkpoint, "--data", scenes, "--json", tmp_path / "r.json")
    report = json.loads((tmp_path / "r.json").read_text())
    for part in ("checkpoint", "data", "scores", "classes", "confusion", "intervals"):
        assert job["report"][part] == report[part]


def test_wait_answers_with_the_report(serve, scenes: Path) -> None:
    reply = serve(data=scenes).post("/evaluate?wait=true&split=train")
    assert reply.status_code == 200 and reply.json()["data"] == {"name": scenes.name, "split": "train", "images": 6}


def test_without_data_409(serve) -> None:
    reply = serve().post("/evaluate")
    assert (reply.status_code, reply.json()["code"]) == (409, "no_data")


@pytest.mark.parametrize(
    ("query", "code"), [("split=test", "unknown_split"), ("split=../x", "unknown_split"), ("model=x", "unknown_model")]
)
def test_unknown_names_404(serve, scenes: Path, query: str, code: str) -> None:
    reply = serve(data=scenes).post(f"/evaluate?{query}")
    assert (reply.status_code, reply.json()["code"]) == (404, code)


def test_data_of_other_classes_409(serve, plain: Path) -> None:
    assert serve(data=plain).post("/evaluate").json()["code"] == "labels_differ"


def test_an_unknown_job_404(serve) -> None:
    reply = serve().get("/evaluate/nobody")
    assert (reply.status_code, reply.json()["code"]) == (404, "unknown_evaluation")


def test_a_second_one_of_the_model_409_with_the_first_s_location(serve, scenes: Path) -> None:
    client = serve(data=scenes)
    gate = shut(client.app)
    first = client.post("/evaluate")
    second = client.post("/evaluate")
    assert (second.status_code, second.json()["code"]) == (409, "evaluation_running")
    assert second.headers["location"] == first.headers["location"]
    gate.set()
    assert finished(client, first.headers["location"])["state"] == "done"
    assert client.post("/evaluate?wait=true").status_code == 200


def test_the_list_has_the_newest_first_and_no_reports(serve, scenes: Path) -> None:
    client = serve(data=scenes)
    ids = [client.post("/evaluate?wait=true").headers["location"].rpartition("/")[2] for _ in range(2)]
    listed = client.get("/evaluate").json()["evaluations"]
    assert [job["id"] for job in listed] == ids[::-1] and "report" not in listed[0]


def test_a_restart_lists_what_was_done_and_what_was_interrupted(serve, scenes: Path, tmp_path: Path) -> None:
    location = serve(data=scenes, state=tmp_path / "s").post("/evaluate?wait=true").headers["location"]
    path = tmp_path / "s" / "evaluations" / f"{location.rpartition('/')[2]}.json"
    running = {**json.loads(path.read_text()), "id": "20200101T000000-00000000", "state": "running", "report": None}
    path.with_name(f"{running['id']}.json").write_text(json.dumps(running))
    (path.parent / "torn.json").write_text('{"id": "x"')
    again = serve(data=scenes, state=tmp_path / "s")
    states = {job["id"]: job["state"] for job in again.get("/evaluate").json()["evaluations"]}
    assert states == {path.stem: "done", running["id"]: "interrupted"}
    assert again.get(location).json()["report"]["data"]["images"] == 5


def test_stopping_writes_a_running_job_as_interrupted(serve, scenes: Path, tmp_path: Path) -> None:
    client = serve(data=scenes, state=tmp_path / "s")
    evaluations: Evaluations = client.app.state.evaluations
    evaluations._stopping.set()
    assert finished(client, client.post("/evaluate").headers["location"])["state"] == "interrupted"


@pytest.mark.parametrize(("quiet", "rests"), [(0.0, 5), (60.0, 0)])
def test_an_evaluation_rests_between_photographs_while_requests_come(
    serve, scenes: Path, monkeypatch: pytest.MonkeyPatch, quiet: float, rests: int
) -> None:
    client = serve(data=scenes)
    evaluations, rested = client.app.state.evaluations, []
    monkeypatch.setattr(evaluations.scoring, "quiet_s", lambda: quiet)
    monkeypatch.setattr(evaluations.scoring, "_rest", lambda seconds, _: rested.append(seconds))
    assert client.post("/evaluate?wait=true").status_code == 200
    assert len(rested) == rests and all(seconds > 0 for seconds in rested)


def test_one_that_comes_while_the_service_ends_is_told_so_and_listed_as_interrupted(serve, scenes: Path) -> None:
    client = serve(data=scenes)
    client.app.state.evaluations.stop()
    reply = client.post("/evaluate?wait=true")
    assert (reply.status_code, reply.json()["code"]) == (503, "shutting_down")
    (job,) = client.get("/evaluate").json()["evaluations"]
    assert job["state"] == "interrupted"
    assert client.delete(f"/evaluate/{job['id']}").json()["code"] == "evaluation_finished"


def events(client, location: str) -> list[tuple[str, dict]]:
    told = client.get(f"{location}/events").text.strip().split("\n\n")
    lines = [dict(line.split(": ", 1) for line in event.split("\n")) for event in told]
    return [(line["event"], json.loads(line["data"])) for line in lines]


def test_events_tell_the_progress_and_the_end(serve, scenes: Path) -> None:
    client = serve(data=scenes)
    gate = shut(client.app)
    location = client.post("/evaluate").headers["location"]
    threading.Timer(0.5, gate.set).start()
    told = events(client, location)
    assert told[0][0] in ("queued", "running") and told[-1][0] == "done"
    assert told[-1][1]["progress"] == {"done": 5, "total": 5} and "report" not in told[-1][1]
    assert events(client, location) == told[-1:]  # afterwards the end alone
    assert client.get("/evaluate/nobody/events").status_code == 404


def test_a_running_and_a_waiting_one_can_be_cancelled(serve, scenes: Path, tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "two" / "second.safetensors", seed=2)
    make_checkpoint(tmp_path / "two" / "first.safetensors", seed=1)
    client = serve(data=scenes, checkpoints=[tmp_path / "two"])
    gate = shut(client.app)
    running, waiting = (client.post(f"/evaluate?model={name}").headers["location"] for name in ("first", "second"))
    assert client.delete(waiting).status_code == 204
    assert client.delete(running).status_code == 204  # however long the worker is busy with others
    gate.set()
    for location in (running, waiting):
        job = client.get(location).json()
        assert job["state"] == "cancelled" and job["finished"] and job["report"] is None
        stored = tmp_path / "state" / "evaluations" / f"{location.rpartition('/')[2]}.json"
        assert json.loads(stored.read_text())["state"] == "cancelled"
        again = client.delete(location)
        assert (again.status_code, again.json()["code"]) == (409, "evaluation_finished")
    assert client.post("/evaluate?model=first&wait=true").status_code == 200


def three(tmp_path: Path) -> Path:
    for seed, name in enumerate("abc"):
        make_checkpoint(tmp_path / "three" / f"{name}.safetensors", seed=seed)
    return tmp_path / "three"


def test_those_that_wait_hold_no_model_in_memory(serve, scenes: Path, tmp_path: Path) -> None:
    client = serve(data=scenes, checkpoints=[three(tmp_path)], max_loaded=1)
    gate = shut(client.app)
    locations = [client.post(f"/evaluate?model={name}").headers["location"] for name in "abc"]
    gc.collect()
    assert "b" not in [held.name for held in gc.get_objects() if type(held) is Loaded]
    gate.set()
    assert [finished(client, location)["report"]["checkpoint"]["name"] for location in locations] == ["a", "b", "c"]


def test_who_waits_for_the_report_holds_no_model_in_memory_either(serve, scenes: Path, tmp_path: Path) -> None:
    client = serve(data=scenes, checkpoints=[three(tmp_path)], max_loaded=1)
    gate = shut(client.app)
    with ThreadPoolExecutor(3) as pool:
        waiting = []
        for number, name in enumerate("abc"):
            waiting.append(pool.submit(client.post, f"/evaluate?model={name}&wait=true"))
            until(lambda number=number: len(client.get("/evaluate").json()["evaluations"]) == number + 1)
        gc.collect()
        assert "b" not in [held.name for held in gc.get_objects() if type(held) is Loaded]
        gate.set()
        assert [each.result().status_code for each in waiting] == [200, 200, 200]


def test_a_reload_is_not_undone_by_an_evaluation_that_was_loading_the_model(
    serve, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = serve(data=scenes, checkpoints=[three(tmp_path)], max_loaded=1)
    models, gate, begun, go_on = client.app.state.models, shut(client.app), threading.Event(), threading.Event()
    client.post("/evaluate?model=a")
    waiting = client.post("/evaluate?model=b").headers["location"]
    client.post("/evaluate?model=c")  # b is let go
    load = models._load

    def slowly(model):  # type: ignore[no-untyped-def]
        found = load(model)
        if model.name == "b" and not begun.is_set():
            begun.set()
            go_on.wait(20)
        return found

    monkeypatch.setattr(models, "_load", slowly)
    gate.set()
    assert begun.wait(20)  # the evaluation has read the file
    make_checkpoint(tmp_path / "three" / "b.safetensors", seed=9)
    with ThreadPoolExecutor(1) as pool:
        reloaded = pool.submit(client.post, "/models/b/reload")
        time.sleep(0.2)
        go_on.set()
        digest = reloaded.result().json()["digest"]
    assert finished(client, waiting)["state"] == "done"  # it was scored as it was when it was asked for
    assert client.post("/segment?model=b", content=encoded()).headers["segment-digest"] == digest


def test_a_drive_of_the_data_that_hangs_stops_nothing_but_what_needs_it(
    serve, scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, drive = serve(data=scenes), threading.Event()
    gate = shut(client.app)
    location = client.post("/evaluate").headers["location"]
    monkeypatch.setattr("service.evaluation.manager.list_splits", lambda _: drive.wait(60) and ["val"])
    with ThreadPoolExecutor(6) as pool:
        more = [pool.submit(client.post, "/evaluate") for _ in range(6)]
        time.sleep(0.3)
        assert client.get(location).json()["state"] in ("queued", "running")
        assert client.delete(location).status_code == 204
        drive.set()
        gate.set()
        assert {each.result().status_code for each in more} <= {202, 409}


def test_one_whose_model_is_replaced_while_it_waits_fails_and_says_so(serve, scenes: Path, tmp_path: Path) -> None:
    client = serve(data=scenes, checkpoints=[three(tmp_path)])
    gate = shut(client.app)
    _, waiting = (client.post(f"/evaluate?model={name}").headers["location"] for name in "ab")
    make_checkpoint(tmp_path / "three" / "b.safetensors", seed=9)
    client.app.state.models.replace(client.app.state.models._load(client.app.state.models.models["b"]))
    gate.set()
    job = finished(client, waiting)
    assert job["state"] == "failed" and "was replaced while this waited" in job["error"]


def test_one_whose_photograph_can_t_be_read_is_cancelled_all_the_same(
    serve, scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, drive = serve(data=scenes), threading.Event()
    monkeypatch.setattr("core.data.datasets.read_photo", lambda path: drive.wait(60))
    location = client.post("/evaluate").headers["location"]
    until(lambda: client.get(location).json()["state"] == "running")
    assert client.delete(location).status_code == 204
    drive.set()


def test_nothing_is_loaded_for_an_evaluation_that_can_t_be(serve, scenes: Path, tmp_path: Path) -> None:
    client = serve(data=scenes, checkpoints=[three(tmp_path)])
    assert client.post("/evaluate?model=b&split=x").json()["code"] == "unknown_split"
    assert [loaded.name for loaded in client.app.state.models.loaded()] == ["a"]


def test_a_stream_on_which_nothing_happens_is_kept_open(serve, scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.evaluation.manager.QUIET_EVENTS_S", 0.3)
    client = serve(data=scenes)
    gate = shut(client.app)
    location = client.post("/evaluate").headers["location"]
    threading.Timer(2, gate.set).start()
    told = events(client, location)
    assert sum(job["progress"]["done"] == 0 for _, job in told) >= 4


def test_who_waits_for_one_that_is_cancelled_before_it_begins_is_told_so(serve, scenes: Path, tmp_path: Path) -> None:
    for seed, name in enumerate(("first", "second")):
        make_checkpoint(tmp_path / "two" / f"{name}.safetensors", seed=seed)
    client = serve(data=scenes, checkpoints=[tmp_path / "two"])
    gate = shut(client.app)
    client.post("/evaluate?model=first")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.post, "/evaluate?model=second&wait=true")
        until(lambda: len(client.get("/evaluate").json()["evaluations"]) == 2)
        newest = client.get("/evaluate").json()["evaluations"][0]
        assert (newest["model"], newest["state"]) == ("second", "queued")
        assert client.delete(f"/evaluate/{newest['id']}").status_code == 204
        assert (waiting.result().status_code, waiting.result().json()["code"]) == (409, "evaluation_cancelled")
    gate.set()


def test_one_that_rests_is_cancelled_at_once(serve, scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.evaluation.runner.QUIET_S", 1e9)
    monkeypatch.setattr("service.evaluation.runner.REST", 1e9)
    client = serve(data=scenes)
    client.post("/segment", content=encoded())
    location = client.post("/evaluate").headers["location"]
    until(lambda: client.get(location).json()["state"] == "running")
    assert client.delete(location).status_code == 204


def test_the_newest_evaluations_are_kept(serve, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.evaluation.manager.KEPT", 2)
    client = serve(data=scenes)
    made = [client.post("/evaluate?wait=true").headers["location"].rpartition("/")[2] for _ in range(5)]
    listed = [job["id"] for job in client.get("/evaluate").json()["evaluations"]]
    assert listed == made[:-4:-1]  # the last one had not ended as it was begun
    assert {path.stem for path in (tmp_path / "state" / "evaluations").iterdir()} == set(listed)


def test_data_that_may_not_be_read_is_no_data(serve, scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def locked(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("service.evaluation.manager.list_splits", locked)
    reply = serve(data=scenes).post("/evaluate")
    assert (reply.status_code, reply.json()["code"]) == (409, "no_data")


def test_a_state_that_can_t_be_written_does_not_block_the_model(serve, scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = serve(data=scenes)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("service.evaluation.store.write_atomically", full)
        assert client.post("/evaluate").status_code == 500
    assert client.get("/evaluate").json() == {"evaluations": []}
    assert client.post("/evaluate?wait=true").status_code == 200


def test_a_disk_that_fills_up_on_the_way_still_ends_the_job(serve, scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = serve(data=scenes)
    gate = shut(client.app)
    location = client.post("/evaluate").headers["location"]

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("service.evaluation.store.write_atomically", full)
    gate.set()
    assert finished(client, location)["state"] == "done"
