"""`/evaluate`: evaluations of served models as jobs that survive a restart of the service."""

from __future__ import annotations

import errno
import gc
import io
import json
import shutil
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

import httpx
import numpy as np
import pytest
from fastapi import Request, Response
from fastapi.testclient import TestClient
from PIL import Image
from starlette.middleware.base import RequestResponseEndpoint

from core.data.datasets import list_splits, open_dataset
from core.images.encode import encode_gray_png
from service.app import create_app
from service.evaluation.manager import IO_THREADS
from service.inference.registry import LoadedModel, ModelEntry
from service.settings import load_settings
from tests.support.checkpoints import make_checkpoint, make_checkpoints
from tests.support.evaluations import on_evaluation_event, read_events, wait_for_evaluation
from tests.support.fake_backends import block_workers
from tests.support.live_server import Serve, live_server, wait_until_ready
from tests.support.sample_images import encode_image
from tests.support.wait import wait_until


def disk_full(*_: object) -> NoReturn:
    raise OSError(errno.ENOSPC, "No space left on device")


def names_of_models_in_memory() -> list[str]:
    """Return the names of all `LoadedModel` objects that are still referenced."""
    gc.collect()
    return [model.name for model in gc.get_objects() if type(model) is LoadedModel]


def test_report_equals_that_of_evaluate_command(serve: Serve, scenes: Path, checkpoint: Path, tmp_path: Path, cli) -> None:
    client = serve(data=scenes)
    started = client.post("/evaluate")
    assert started.status_code == 202
    job = wait_for_evaluation(client, started.headers["location"])
    assert (job["state"], job["progress"], job["model"]) == ("done", {"done": 5, "total": 5}, "random")
    cli("evaluate", checkpoint, "--data", scenes, "--json", tmp_path / "r.json")
    report = json.loads((tmp_path / "r.json").read_text())
    for key in ("checkpoint", "data", "scores", "classes", "confusion", "intervals", "examples"):
        assert job["report"][key] == report[key]


def test_wait_returns_report(serve: Serve, scenes: Path) -> None:
    response = serve(data=scenes).post("/evaluate?wait=true&split=train")
    assert response.status_code == 200
    assert response.json()["data"] == {"name": scenes.name, "split": "train", "images": 6}


def test_request_of_waiting_client_ends_when_it_disconnects(checkpoint: Path, scenes: Path, tmp_path: Path) -> None:
    app = create_app(load_settings(checkpoints=[checkpoint], state=tmp_path / "state", data=scenes))
    ended = threading.Event()

    async def note_end(request: Request, call_next: RequestResponseEndpoint) -> Response:
        try:
            return await call_next(request)
        finally:
            if request.method == "POST":
                ended.set()

    app.middleware("http")(note_end)
    with live_server(app) as port:
        blocker = block_workers(app)
        with socket.create_connection(("127.0.0.1", port)) as sock:
            sock.sendall(b"POST /evaluate?wait=true HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}")
            wait_until(app.state.evaluations.list_jobs)
        (job,) = app.state.evaluations.list_jobs()
        assert ended.wait(20) and job.active
        blocker.release()
        wait_until(lambda: not job.active)
    assert job.state == "done"  # The report is there for those who ask later.


def test_dataset_lists_splits(serve: Serve, scenes: Path) -> None:
    assert serve(data=scenes).get("/dataset").json() == {"splits": ["train", "val"]}


@pytest.mark.parametrize(("method", "path"), [("POST", "/evaluate"), ("GET", "/dataset")])
def test_service_without_dataset_returns_409(serve: Serve, method: str, path: str) -> None:
    response = serve().request(method, path)
    assert (response.status_code, response.json()["code"]) == (409, "dataset_unavailable")


@pytest.mark.parametrize(
    ("query", "code"), [("split=test", "unknown_split"), ("split=../x", "unknown_split"), ("model=x", "unknown_model")]
)
def test_unknown_split_or_model_returns_404(serve: Serve, scenes: Path, query: str, code: str) -> None:
    response = serve(data=scenes).post(f"/evaluate?{query}")
    assert (response.status_code, response.json()["code"]) == (404, code)


def test_dataset_with_other_classes_returns_409(serve: Serve, plain_dataset: Path) -> None:
    response = serve(data=plain_dataset).post("/evaluate")
    assert (response.status_code, response.json()["code"]) == (409, "label_space_mismatch")


def test_unknown_job_returns_404(serve: Serve) -> None:
    response = serve().get("/evaluate/unknown")
    assert (response.status_code, response.json()["code"]) == (404, "unknown_evaluation")


def test_second_evaluation_of_same_model_returns_409_with_location_of_first(serve: Serve, scenes: Path) -> None:
    client = serve(data=scenes)
    blocker = block_workers(client.app)
    first = client.post("/evaluate")
    second = client.post("/evaluate")
    assert (second.status_code, second.json()["code"]) == (409, "evaluation_running")
    assert second.headers["location"] == first.headers["location"]
    blocker.release()
    assert wait_for_evaluation(client, first.headers["location"])["state"] == "done"
    assert client.post("/evaluate?wait=true").status_code == 200


def test_list_is_newest_first_without_reports(serve: Serve, scenes: Path) -> None:
    client = serve(data=scenes)
    ids = [client.post("/evaluate?wait=true").headers["location"].rpartition("/")[2] for _ in range(2)]
    jobs = client.get("/evaluate").json()["evaluations"]
    assert [job["id"] for job in jobs] == ids[::-1] and "report" not in jobs[0]


def test_restart_lists_finished_and_interrupted_jobs(serve: Serve, scenes: Path, tmp_path: Path) -> None:
    location = serve(data=scenes, state=tmp_path / "s").post("/evaluate?wait=true").headers["location"]
    path = tmp_path / "s" / "evaluations" / f"{location.rpartition('/')[2]}.json"
    running = {**json.loads(path.read_text()), "id": "20200101T000000-00000000", "state": "running", "report": None}
    path.with_name(f"{running['id']}.json").write_text(json.dumps(running))
    (path.parent / "torn.json").write_text('{"id": "x"')
    restarted = serve(data=scenes, state=tmp_path / "s")
    states = {job["id"]: job["state"] for job in restarted.get("/evaluate").json()["evaluations"]}
    assert states == {path.stem: "done", running["id"]: "interrupted"}
    assert restarted.get(location).json()["report"]["data"]["images"] == 5


def test_shutdown_interrupts_running_job(serve: Serve, scenes: Path, tmp_path: Path) -> None:
    client = serve(data=scenes, state=tmp_path / "s")
    client.app.state.evaluations._stopping.set()
    assert wait_for_evaluation(client, client.post("/evaluate").headers["location"])["state"] == "interrupted"


@pytest.mark.parametrize(("idle_seconds", "pauses"), [(0.0, 5), (60.0, 0)])
def test_evaluation_pauses_between_images_while_requests_arrive(
    serve: Serve, scenes: Path, monkeypatch: pytest.MonkeyPatch, idle_seconds: float, pauses: int
) -> None:
    client = serve(data=scenes)
    runner = client.app.state.evaluations.runner
    pause_lengths: list[float] = []
    monkeypatch.setattr(runner, "idle_seconds", lambda: idle_seconds)
    monkeypatch.setattr(runner, "_pause", lambda seconds, _: pause_lengths.append(seconds))
    assert client.post("/evaluate?wait=true").status_code == 200
    assert len(pause_lengths) == pauses and all(seconds > 0 for seconds in pause_lengths)


def test_evaluation_during_shutdown_returns_503_and_is_interrupted(serve: Serve, scenes: Path) -> None:
    client = serve(data=scenes)
    client.app.state.evaluations.stop()
    response = client.post("/evaluate?wait=true")
    assert (response.status_code, response.json()["code"]) == (503, "shutting_down")
    (job,) = client.get("/evaluate").json()["evaluations"]
    assert job["state"] == "interrupted"
    assert client.delete(f"/evaluate/{job['id']}").json()["code"] == "evaluation_finished"


def test_events_report_progress_and_end(serve: Serve, scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = serve(data=scenes)
    blocker = block_workers(client.app)
    location = client.post("/evaluate").headers["location"]
    on_evaluation_event(monkeypatch, client, blocker.release)
    events = read_events(client, location)
    assert events[0][0] in ("queued", "running") and events[-1][0] == "done"
    assert events[-1][1]["progress"] == {"done": 5, "total": 5} and "report" not in events[-1][1]
    assert read_events(client, location) == events[-1:]  # The stream of a finished job has one event.
    assert client.get("/evaluate/unknown/events").status_code == 404


def test_running_and_queued_jobs_can_be_cancelled(serve: Serve, scenes: Path, tmp_path: Path) -> None:
    client = serve(data=scenes, checkpoints=[make_checkpoints(tmp_path / "models", "first", "second")])
    blocker = block_workers(client.app)
    running, queued = (client.post(f"/evaluate?model={name}").headers["location"] for name in ("first", "second"))
    assert client.delete(queued).status_code == 204
    assert client.delete(running).status_code == 204  # Cancellation does not wait for the busy worker.
    blocker.release()
    for location in (running, queued):
        job = client.get(location).json()
        assert job["state"] == "cancelled" and job["finished"] and job["report"] is None
        stored = tmp_path / "state" / "evaluations" / f"{location.rpartition('/')[2]}.json"
        assert json.loads(stored.read_text())["state"] == "cancelled"
        repeated = client.delete(location)
        assert (repeated.status_code, repeated.json()["code"]) == (409, "evaluation_finished")
    assert client.post("/evaluate?model=first&wait=true").status_code == 200


def test_queued_jobs_keep_no_model_in_memory(serve: Serve, scenes: Path, tmp_path: Path) -> None:
    client = serve(data=scenes, checkpoints=[make_checkpoints(tmp_path / "models", "a", "b", "c")], max_loaded=1)
    blocker = block_workers(client.app)
    locations = [client.post(f"/evaluate?model={name}").headers["location"] for name in "abc"]
    assert "b" not in names_of_models_in_memory()
    blocker.release()
    assert [wait_for_evaluation(client, location)["report"]["checkpoint"]["name"] for location in locations] == ["a", "b", "c"]


def test_waiting_requests_keep_no_model_in_memory(serve: Serve, scenes: Path, tmp_path: Path) -> None:
    client = serve(data=scenes, checkpoints=[make_checkpoints(tmp_path / "models", "a", "b", "c")], max_loaded=1)
    blocker = block_workers(client.app)
    with ThreadPoolExecutor(3) as pool:
        waiting = []
        for number, name in enumerate("abc"):
            waiting.append(pool.submit(client.post, f"/evaluate?model={name}&wait=true"))
            wait_until(lambda number=number: len(client.get("/evaluate").json()["evaluations"]) == number + 1)
        assert "b" not in names_of_models_in_memory()
        blocker.release()
        assert [request.result().status_code for request in waiting] == [200, 200, 200]


def test_reload_is_not_undone_by_evaluation_that_loads_same_model(
    serve: Serve, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = make_checkpoints(tmp_path / "models", "a", "b", "c")
    client = serve(data=scenes, checkpoints=[directory], max_loaded=1)
    registry, blocker = client.app.state.registry, block_workers(client.app)
    client.post("/evaluate?model=a")
    queued = client.post("/evaluate?model=b").headers["location"]
    client.post("/evaluate?model=c")  # evicts b
    has_read, may_return = threading.Event(), threading.Event()
    original = registry._load

    def load(entry: ModelEntry) -> LoadedModel:
        model = original(entry)
        if entry.name == "b" and not has_read.is_set():
            has_read.set()
            may_return.wait(20)
        return model

    monkeypatch.setattr(registry, "_load", load)
    blocker.release()
    assert has_read.wait(20)  # The evaluation has read the old file of b.
    make_checkpoint(directory / "b.safetensors", seed=9)
    with ThreadPoolExecutor(1) as pool:
        reload = pool.submit(client.post, "/models/b/reload")
        wait_until(registry._loader._work_queue.qsize)  # The reload is queued behind the evaluation's load.
        may_return.set()
        digest = reload.result().json()["digest"]
    assert wait_for_evaluation(client, queued)["state"] == "done"  # It evaluated the weights of the time of its request.
    assert client.post("/segment?model=b", content=encode_image()).headers["segment-digest"] == digest


def test_hung_dataset_blocks_only_new_evaluations(serve: Serve, scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client, dataset_responds = serve(data=scenes), threading.Event()
    blocker = block_workers(client.app)
    location = client.post("/evaluate").headers["location"]
    hung_threads = []

    def list_splits(_: Path) -> list[str]:
        hung_threads.append(threading.get_ident())
        dataset_responds.wait(60)
        return ["val"]

    monkeypatch.setattr("service.evaluation.manager.list_splits", list_splits)
    with ThreadPoolExecutor(6) as pool:
        new_evaluations = [pool.submit(client.post, "/evaluate") for _ in range(6)]
        try:
            wait_until(lambda: len(hung_threads) == IO_THREADS)  # All threads for the dataset hang.
            assert client.get(location).json()["state"] in ("queued", "running")
            assert client.delete(location).status_code == 204
        finally:
            dataset_responds.set()
        statuses = sorted(request.result().status_code for request in new_evaluations)
    blocker.release()
    assert statuses == [202, *[409] * 5]


def test_service_starts_while_dataset_hangs_and_evaluates_once_it_responds(
    serve: Serve, scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset_responds = threading.Event()

    def hung_list_splits(root: Path) -> list[str]:
        dataset_responds.wait(20)
        return list_splits(root)

    monkeypatch.setattr("service.evaluation.manager.list_splits", hung_list_splits)
    monkeypatch.setattr("service.evaluation.manager.DATASET_TIMEOUT_S", 0.1)
    client = serve(data=scenes)
    try:
        assert not dataset_responds.is_set() and client.post("/segment", content=encode_image()).status_code == 200
        for _ in range(IO_THREADS + 1):
            response = client.post("/evaluate")
            assert (response.status_code, response.json()["code"]) == (409, "dataset_unavailable")
    finally:
        dataset_responds.set()
    monkeypatch.setattr("service.evaluation.manager.DATASET_TIMEOUT_S", 20)
    assert client.post("/evaluate?wait=true").status_code == 200


def test_shutdown_does_not_wait_for_hung_state_directory(
    scenes: Path, tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.app.CLOSE_TIMEOUT_S", 0.1)
    settings = load_settings(checkpoints=[checkpoint], data=scenes, state=tmp_path / "s", allowed_hosts=["testserver"])
    directory_responds, hung = threading.Event(), threading.Event()

    def write(*_: object) -> None:
        hung.set()
        directory_responds.wait(20)

    with TestClient(create_app(settings)) as client:
        wait_until_ready(client)
        blocker = block_workers(client.app)
        client.post("/evaluate")
        monkeypatch.setattr("service.evaluation.store.write_atomically", write)
        blocker.release()
        assert hung.wait(20)
    assert not directory_responds.is_set()
    directory_responds.set()


def test_evaluation_fails_if_model_is_reloaded_while_queued(serve: Serve, scenes: Path, tmp_path: Path) -> None:
    directory = make_checkpoints(tmp_path / "models", "a", "b")
    client = serve(data=scenes, checkpoints=[directory])
    registry, blocker = client.app.state.registry, block_workers(client.app)
    _, queued = (client.post(f"/evaluate?model={name}").headers["location"] for name in "ab")
    make_checkpoint(directory / "b.safetensors", seed=9)
    registry.activate(registry._load(registry.models["b"]))  # Not with a request, which warms up the blocked workers.
    blocker.release()
    job = wait_for_evaluation(client, queued)
    assert job["state"] == "failed" and "was reloaded while the evaluation was queued" in job["error"]


def test_evaluation_can_be_cancelled_while_image_file_hangs(
    serve: Serve, scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, file_responds = serve(data=scenes), threading.Event()
    monkeypatch.setattr("core.data.datasets.load_image", lambda *_: file_responds.wait(60))
    location = client.post("/evaluate").headers["location"]
    wait_until(lambda: client.get(location).json()["state"] == "running")
    assert client.delete(location).status_code == 204
    file_responds.set()


def test_invalid_evaluation_loads_no_model(serve: Serve, scenes: Path, tmp_path: Path) -> None:
    client = serve(data=scenes, checkpoints=[make_checkpoints(tmp_path / "models", "a", "b")])
    assert client.post("/evaluate?model=b&split=x").json()["code"] == "unknown_split"
    assert [model.name for model in client.app.state.registry.loaded()] == ["a"]


def test_idle_event_stream_sends_keepalive_comments(serve: Serve, scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastapi.routing._PING_INTERVAL", 0.02)  # a fraction of the manager's poll interval
    client = serve(data=scenes)
    blocker, manager = block_workers(client.app), client.app.state.evaluations
    location = client.post("/evaluate").headers["location"]
    original, polls = manager.run_io, 0

    async def run_io(function: Callable[..., object], *args: object) -> object:
        nonlocal polls
        polls += function == manager.job
        if polls == 8:
            blocker.release()
        return await original(function, *args)

    monkeypatch.setattr(manager, "run_io", run_io)
    assert client.get(f"{location}/events").text.count(": ping") >= 4


def test_waiting_request_returns_409_if_queued_job_is_cancelled(serve: Serve, scenes: Path, tmp_path: Path) -> None:
    client = serve(data=scenes, checkpoints=[make_checkpoints(tmp_path / "models", "first", "second")])
    blocker = block_workers(client.app)
    client.post("/evaluate?model=first")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.post, "/evaluate?model=second&wait=true")
        wait_until(lambda: len(client.get("/evaluate").json()["evaluations"]) == 2)
        newest = client.get("/evaluate").json()["evaluations"][0]
        assert (newest["model"], newest["state"]) == ("second", "queued")
        assert client.delete(f"/evaluate/{newest['id']}").status_code == 204
        assert (waiting.result().status_code, waiting.result().json()["code"]) == (409, "evaluation_cancelled")
    blocker.release()


def test_paused_evaluation_can_be_cancelled(serve: Serve, scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The first pause is longer than the test, so only a cancellation that interrupts it succeeds.
    monkeypatch.setattr("service.evaluation.runner.QUIET_S", 1e9)
    monkeypatch.setattr("service.evaluation.runner.PAUSE_RATIO", 1e9)
    client = serve(data=scenes)
    client.post("/segment", content=encode_image())
    location = client.post("/evaluate").headers["location"]
    wait_until(lambda: client.get(location).json()["state"] == "running")
    assert client.delete(location).status_code == 204


def test_only_newest_jobs_are_kept(serve: Serve, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.evaluation.manager.MAX_FINISHED_JOBS", 2)
    client = serve(data=scenes)
    ids = [client.post("/evaluate?wait=true").headers["location"].rpartition("/")[2] for _ in range(5)]
    listed = [job["id"] for job in client.get("/evaluate").json()["evaluations"]]
    assert listed == ids[:-4:-1]  # Jobs are deleted when one starts, and the last one was active then.
    assert {path.stem for path in (tmp_path / "state" / "evaluations").iterdir()} == set(listed)


def test_unreadable_dataset_returns_409(serve: Serve, scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def permission_denied(*_: object) -> NoReturn:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("service.evaluation.manager.list_splits", permission_denied)
    response = serve(data=scenes).post("/evaluate")
    assert (response.status_code, response.json()["code"]) == (409, "dataset_unavailable")


def test_full_disk_at_start_does_not_block_later_evaluations(
    serve: Serve, scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = serve(data=scenes)
    with monkeypatch.context() as patch:
        patch.setattr("service.evaluation.store.write_atomically", disk_full)
        assert client.post("/evaluate").status_code == 500
    assert client.get("/evaluate").json() == {"evaluations": []}
    assert client.post("/evaluate?wait=true").status_code == 200


def test_disk_that_fills_up_during_evaluation_does_not_stop_it(
    serve: Serve, scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = serve(data=scenes)
    blocker = block_workers(client.app)
    location = client.post("/evaluate").headers["location"]
    monkeypatch.setattr("service.evaluation.store.write_atomically", disk_full)
    blocker.release()
    assert wait_for_evaluation(client, location)["state"] == "done"


def evaluate(client: TestClient, query: str = "") -> str:
    """Evaluate a model and return the URL of the evaluation."""
    response = client.post(f"/evaluate?wait=true{query}")
    assert response.status_code == 200
    return response.headers["location"]


def compare(client: TestClient, location: str, base: str) -> httpx.Response:
    return client.get(f"{location}/difference", params={"base": base.rpartition("/")[2]})


def test_difference_subtracts_scores_of_base(serve: Serve, scenes: Path, tmp_path: Path) -> None:
    client = serve(data=scenes, checkpoints=[make_checkpoints(tmp_path / "models", "a", "b")])
    first, base = evaluate(client, "&model=a"), evaluate(client, "&model=b")
    scores, base_scores = (client.get(location).json()["report"]["scores"] for location in (first, base))
    difference = compare(client, first, base).json()
    assert (difference["id"], difference["base"]) == (first.rpartition("/")[2], base.rpartition("/")[2])
    for key in ("pixel_accuracy", "miou", "miou_present"):
        value, (low, high) = difference["scores"][key]["value"], difference["scores"][key]["interval"]
        assert value == pytest.approx(scores[key] - base_scores[key]) and low <= value <= high
    assert [entry["name"] for entry in difference["classes"]][:2] == ["road", "sidewalk"] and len(difference["classes"]) == 19


def test_difference_survives_restart(serve: Serve, scenes: Path, tmp_path: Path) -> None:
    locations = [evaluate(client) for client in (serve(data=scenes, state=tmp_path / "s"),) for _ in range(2)]
    response = compare(serve(state=tmp_path / "s"), *locations)
    assert response.json()["scores"]["miou_present"] == {"value": 0, "interval": [0, 0]}


@pytest.mark.parametrize(
    ("split", "reason"), [("train", "different data"), ("val", "no counts of the single images")], ids=["split", "old report"]
)
def test_evaluations_that_cannot_be_paired_return_409(
    serve: Serve, scenes: Path, tmp_path: Path, split: str, reason: str
) -> None:
    client = serve(data=scenes)
    first, base = evaluate(client), evaluate(client, f"&split={split}")
    (tmp_path / "state" / "evaluations" / f"{base.rpartition('/')[2]}.safetensors").unlink()
    response = compare(client, first, base)
    assert (response.status_code, response.json()["code"]) == (409, "not_comparable") and reason in response.json()["detail"]


def test_evaluations_of_changed_images_or_labels_cannot_be_paired(serve: Serve, scenes: Path, tmp_path: Path) -> None:
    data = tmp_path / scenes.name
    shutil.copytree(scenes, data)
    client = serve(data=data)
    first = evaluate(client)
    label = sorted(data.glob("gtFine/val/*/*.png"))[0]
    label.write_bytes(encode_gray_png(np.full((64, 128), 7, np.uint8)))
    second = evaluate(client)
    assert "the labels of 1 images have changed" in compare(client, second, first).json()["detail"]
    label.unlink()
    sorted(data.glob("leftImg8bit/val/*/*.png"))[0].unlink()
    assert "different images (4 and 5)" in compare(client, evaluate(client), second).json()["detail"]


def test_evaluations_of_changed_classes_cannot_be_paired(serve: Serve, scenes: Path, tmp_path: Path) -> None:
    client = serve(data=scenes, state=tmp_path / "s")
    first, base = evaluate(client), evaluate(client)
    path = tmp_path / "s" / "evaluations" / f"{base.rpartition('/')[2]}.json"
    job = json.loads(path.read_text())
    job["report"]["classes"].pop()
    path.write_text(json.dumps(job))
    response = compare(serve(state=tmp_path / "s"), first, base)
    assert (response.status_code, response.json()["code"]) == (409, "not_comparable")
    assert "their classes differ" in response.json()["detail"]


def test_difference_of_unfinished_or_unknown_evaluation_is_refused(serve: Serve, scenes: Path) -> None:
    client = serve(data=scenes)
    done = evaluate(client)
    blocker = block_workers(client.app)
    running = client.post("/evaluate").headers["location"]
    assert compare(client, running, done).json()["code"] == "not_comparable"
    assert compare(client, done, "unknown").json()["code"] == "unknown_evaluation"
    blocker.release()


def test_too_many_images_are_not_comparable(serve: Serve, scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.evaluation.image_counts.MAX_BYTES", 100)
    client = serve(data=scenes)
    assert "the split is too large" in compare(client, evaluate(client), evaluate(client)).json()["detail"]


def test_example_returns_image_and_label_of_dataset(serve: Serve, scenes: Path) -> None:
    client, dataset = serve(data=scenes), open_dataset(scenes, "val")
    location = evaluate(client)
    example = client.get(location).json()["report"]["examples"]["worst"][0]
    image_path = dataset.pairs[example["index"]][0]
    image, label = (client.get(f"{location}/examples/{example['index']}/{kind}") for kind in ("image", "label"))
    assert image.content == image_path.read_bytes() and image_path.name in example["name"]
    assert (image.headers["content-type"], image.headers["cache-control"]) == ("image/png", "private, max-age=3600")
    pixels = Image.open(io.BytesIO(label.content))
    assert (np.asarray(pixels) == dataset.read_labels(example["index"])).all() and pixels.mode == "P"


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("99/image", 404, "unknown_example"),
        ("-1/image", 422, "invalid_parameter"),
        ("0/../image", 404, "not_found"),
        ("..%2f..%2fx/label", 404, "not_found"),
        ("x/label", 422, "invalid_parameter"),
    ],
)
def test_only_examples_of_report_are_returned(serve: Serve, scenes: Path, path: str, status: int, code: str) -> None:
    client = serve(data=scenes)
    response = client.get(f"{evaluate(client)}/examples/{path}")
    assert (response.status_code, response.json()["code"]) == (status, code)


def test_image_that_is_no_example_is_not_returned(serve: Serve, scenes: Path) -> None:
    client = serve(data=scenes)
    location = evaluate(client, "&split=train")  # six images: all of them are examples
    job = client.app.state.evaluations.job(location.rpartition("/")[2])
    index = job.report.examples.best.pop().index
    assert client.get(f"{location}/examples/{index}/image").json()["code"] == "unknown_example"


def test_example_larger_than_max_bytes_returns_413(serve: Serve, scenes: Path) -> None:
    client = serve(data=scenes, max_bytes=1000)
    location = evaluate(client)
    response = client.get(f"{location}/examples/0/image")
    assert (response.status_code, response.json()["code"]) == (413, "too_large")


def test_example_that_dataset_no_longer_has_returns_409(serve: Serve, scenes: Path, tmp_path: Path) -> None:
    data = tmp_path / scenes.name
    shutil.copytree(scenes, data)
    location = evaluate(serve(data=data, state=tmp_path / "s"))
    for path in (sorted(data.glob("leftImg8bit/val/*/*.png"))[0], sorted(data.glob("gtFine/val/*/*.png"))[0]):
        path.unlink()
    response = serve(data=data, state=tmp_path / "s").get(f"{location}/examples/0/image")
    assert (response.status_code, response.json()["code"]) == (409, "dataset_unavailable")
    assert "no longer has this image" in response.json()["detail"]


def test_report_of_release_0_1_has_no_examples(serve: Serve, scenes: Path, tmp_path: Path) -> None:
    location = evaluate(serve(data=scenes, state=tmp_path / "s"))
    path = tmp_path / "s" / "evaluations" / f"{location.rpartition('/')[2]}.json"
    document = json.loads(path.read_text())
    del document["report"]["examples"]
    path.write_text(json.dumps(document))
    assert serve(state=tmp_path / "s").get(location).json()["report"]["examples"] == {"worst": [], "best": []}
