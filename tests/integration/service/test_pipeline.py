"""What happens between a request and its reply: who goes first, who waits, who is sent away, what is told of it."""

from __future__ import annotations

import gc
import itertools
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient

from core.inference.segmenter import How, Segmenter
from service.api.problems import Problem
from service.app import create_app
from service.inference.admission import Admission
from service.inference.batching import BACKGROUND, USER, Workers
from service.inference.pipeline import Segmentation, Wish
from service.inference.service import TILERS
from service.inference.stage_chain import Flow
from service.settings import load_settings
from tests.conftest import make_checkpoint
from tests.integration.service.conftest import Gate, listening, shut, until


class Noted(Gate):
    """A gate that notes what it ran: batch sizes, and the first value of each input."""

    def __init__(self, batch: int = 1) -> None:
        super().__init__()
        self.batch, self.ran = batch, []

    def forward(self, batch: np.ndarray) -> np.ndarray:
        self.ran.append([int(x.flat[0]) for x in batch])
        return super().forward(batch)


def numbered(number: int, side: int = 1) -> np.ndarray:
    return np.full((side, side, 3), number, np.uint8)


def png(height: int = 90, width: int = 120) -> bytes:
    return cv2.imencode(".png", np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))[1].tobytes()


def test_users_pictures_go_before_evaluation() -> None:
    workers, network = Workers(1), Noted()
    futures = [workers.submit([network], numbered(n), p) for n, p in enumerate((USER, BACKGROUND, USER, BACKGROUND, USER))]
    network.set()
    workers.close()
    assert all(future.result() for future in futures)
    assert network.ran == [[0], [2], [4], [1], [3]]


def test_what_has_come_while_the_worker_was_busy_is_one_batch_of_equal_shapes() -> None:
    workers, network = Workers(1), Noted(batch=3)
    networks = [network]
    workers.submit(networks, numbered(0))
    until(lambda: network.ran)
    futures = [workers.submit(networks, numbered(n, 1 + (n == 2))) for n in (1, 2, 3, 4, 5)]
    network.set()
    assert [int(future.result()[0].flat[0]) for future in futures] == [1, 2, 3, 4, 5]
    workers.close()
    assert network.ran == [[0], [1, 3, 4], [2], [5]]


def test_a_cancelled_picture_is_not_inferred() -> None:
    workers, network = Workers(1), Noted()
    workers.submit([network], numbered(0))
    until(lambda: network.ran)
    gone, stays = workers.submit([network], numbered(1)), workers.submit([network], numbered(2))
    assert gone.cancel()
    network.set()
    stays.result()
    workers.close()
    assert network.ran == [[0], [2]]


def test_a_picture_whose_deadline_has_passed_is_not_inferred() -> None:
    workers, network = Workers(1), Noted()
    workers.submit([network], numbered(0))
    until(lambda: network.ran)
    late = workers.submit([network], numbered(1), deadline=time.monotonic() - 1)
    network.set()
    with pytest.raises(Problem, match="too busy"):
        late.result()
    workers.close()
    assert network.ran == [[0]]


def test_pictures_go_to_the_worker_with_the_fewest() -> None:
    workers, networks = Workers(2), (Noted(), Noted())
    for number in range(4):
        workers.submit(networks, numbered(number))
    assert [len(worker) for worker in workers.each] == [2, 2]
    for network in networks:
        network.set()
    workers.close()
    assert sorted(itertools.chain(*(n for network in networks for n in network.ran))) == [0, 1, 2, 3]


def test_evaluation_waits_for_a_gap_but_not_for_ever() -> None:
    quiet = threading.Event()
    workers, network = Workers(1, quiet.is_set), Noted()
    network.set()
    began = time.monotonic()
    workers.submit([network], numbered(0), BACKGROUND).result(10)
    assert time.monotonic() - began >= 0.9
    waiting = workers.submit([network], numbered(1), BACKGROUND)
    began = time.monotonic()
    quiet.set()
    waiting.result(10)
    assert time.monotonic() - began < 0.9
    workers.close()


def test_two_workers_on_the_cpu_give_the_mask_of_one(serve, checkpoint: Path) -> None:
    client = serve(device="cpu,cpu")
    with ThreadPoolExecutor(4) as pool:
        replies = list(pool.map(lambda _: client.post("/segment?output=labels", content=png()), range(8)))
    rgb = cv2.imdecode(np.frombuffer(png(), np.uint8), cv2.IMREAD_COLOR_RGB)
    expected = Segmenter(checkpoint)(rgb).labels
    for reply in replies:
        assert np.array_equal(cv2.imdecode(np.frombuffer(reply.content, np.uint8), cv2.IMREAD_UNCHANGED), expected)
    assert client.get("/models").json()["models"][0]["devices"] == ["cpu", "cpu"]


@contextmanager
def one_inside(client: TestClient) -> Iterator[None]:
    """A request that waits for its inference meanwhile, and is answered afterwards."""
    gate, segmenting = shut(client.app), client.app.state.segmenting
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.post, "/segment", content=png())
        until(lambda: segmenting.admission.pixels)
        try:
            yield
        finally:
            gate.set()
        assert first.result().status_code == 200


def test_one_request_more_than_the_queue_takes_503_at_once(serve) -> None:
    client = serve(queue=1)
    with one_inside(client):
        second = client.post("/segment", content=png())
        assert (second.status_code, second.json()["code"]) == (503, "overloaded")
        assert int(second.headers["retry-after"]) >= 1
    assert client.post("/segment", content=png()).status_code == 200


def test_more_megapixels_than_the_queue_takes_503_and_one_alone_may_be_larger(serve) -> None:
    client = serve(queue_megapixels=0.001)
    with one_inside(client):
        assert client.post("/segment", content=png()).json()["code"] == "overloaded"
    assert client.app.state.segmenting.admission.pixels == 0


def test_a_request_that_waits_longer_than_the_deadline_503(serve) -> None:
    client = serve(deadline=0.05)
    gate = shut(client.app)
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(client.post, "/segment", content=png())
        until(lambda: len(client.app.state.segmenting.workers) > 1)
        time.sleep(0.1)
        gate.set()
        assert (late.result().status_code, late.result().json()["code"]) == (503, "deadline_passed")


def test_a_model_that_takes_longer_to_load_than_the_deadline_503(
    serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed, name in enumerate("ab"):
        make_checkpoint(tmp_path / "two" / f"{name}.safetensors", seed=seed)
    client, loaded = serve(checkpoints=[tmp_path / "two"], deadline=0.2), threading.Event()
    models = client.app.state.models
    load = models._load
    monkeypatch.setattr(models, "_load", lambda model: [loaded.wait(20), load(model)][1])
    late = client.post("/segment?model=b", content=png())
    loaded.set()
    assert (late.status_code, late.json()["code"]) == (503, "deadline_passed")
    until(lambda: client.post("/segment?model=b", content=png()).status_code == 200)


def test_few_tiles_of_a_photograph_stand_before_one_that_takes_one_run(serve) -> None:
    client = serve()
    gate, workers = shut(client.app), client.app.state.segmenting.workers
    with ThreadPoolExecutor(1) as pool:
        many = pool.submit(client.post, "/segment?resolution=native&flip=true", content=png(600, 400))
        until(lambda: len(workers) == 3)  # the gate, and two of dozens
        time.sleep(0.2)
        assert len(workers) == 3
        gate.set()
        assert many.result().status_code == 200


def test_what_takes_several_runs_leaves_most_places_to_the_rest(serve) -> None:
    client = serve(queue=4)
    gate = shut(client.app)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(client.post, "/segment?flip=true", content=png())
        until(lambda: client.app.state.segmenting.admission.long)
        second = client.post("/segment?resolution=native", content=png())
        assert (second.status_code, second.json()["code"]) == (503, "overloaded")
        plain = pool.submit(client.post, "/segment", content=png())
        until(lambda: client.app.state.segmenting.admission.requests == 2)
        gate.set()
        assert first.result().status_code == plain.result().status_code == 200
    assert client.post("/segment?flip=true", content=png()).status_code == 200


def test_what_has_no_thread_by_its_deadline_is_given_up_then(serve) -> None:
    client = serve(deadline=0.3)
    gate = shut(client.app)
    with ThreadPoolExecutor(TILERS) as pool:
        busy = [pool.submit(client.post, "/segment?flip=true", content=png()) for _ in range(TILERS)]
        until(lambda: client.app.state.segmenting.admission.long == TILERS)
        reply = client.post("/segment?flip=true", content=png())  # and not when the gate is opened
        assert (reply.status_code, reply.json()["code"]) == (503, "deadline_passed")
        gate.set()
        assert {each.result().status_code for each in busy} <= {200, 503}
    assert client.app.state.segmenting.admission.requests == 0


def test_retry_after_grows_with_the_line() -> None:
    admission = Admission(3, 10**9)
    with admission.entered(), admission.entered():
        admission._pace = 4
        with admission.entered(), pytest.raises(Problem) as error, admission.entered():
            pass
    assert error.value.headers == {"Retry-After": "12"}


def test_it_is_quiet_from_when_the_last_one_left() -> None:
    admission = Admission(2, 10)
    assert admission.quiet_s() == float("inf")
    with admission.entered():
        assert admission.quiet_s() == 0
    assert 0 <= admission.quiet_s() < 60


def test_a_request_that_was_given_up_weighs_nothing() -> None:
    admission = Admission(1, 10)
    with admission.entered() as ticket:
        ticket.weigh(5)
    with pytest.raises(Problem):
        ticket.weigh(5)
    assert (admission.requests, admission.pixels) == (0, 0)


@pytest.mark.parametrize("query", ["", "?resolution=native"])
def test_a_client_that_goes_is_given_up_before_inference(
    checkpoint: Path, tmp_path: Path, query: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = create_app(load_settings(checkpoints=[checkpoint], state=tmp_path / "state"))
    with listening(app) as port:
        url = f"http://127.0.0.1:{port}"
        gate = shut(app)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{url}/segment{query}", content=png(300, 300), timeout=httpx.Timeout(5, read=0.3))
        until(lambda: not app.state.segmenting.admission.requests)  # though the gate is still shut
        gate.set()
        until(lambda: 'segment_requests_total{code="client_gone",model="random"} 1.0' in httpx.get(f"{url}/metrics").text)
        until(lambda: not len(app.state.segmenting.workers))
        assert "segment_batch_pictures_count 2.0" in httpx.get(f"{url}/metrics").text  # warming up, and the gate
    gc.collect()  # where a future that nobody asks is told of in the log
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.parametrize("query", ["", "?output=overlay", "?resolution=native", "?flip=true"])
@pytest.mark.parametrize(("picture", "status"), [(png(), 200), (png()[:60], 422), (png(400, 300), 413)])
def test_nothing_of_a_request_stays_when_it_is_answered(serve, query: str, picture: bytes, status: int) -> None:
    client = serve(max_pixels=100_000)
    client.post(f"/segment{query}", content=picture)
    gc.collect()
    gc.disable()  # what is in a circle would stay until it runs
    try:
        assert client.post(f"/segment{query}", content=picture).status_code == status
        until(lambda: not any(type(held) in (Segmentation, Flow) for held in gc.get_objects()), 5)
    finally:
        gc.enable()


def test_a_photograph_of_many_tiles_whose_client_has_gone_is_given_up_between_them(serve) -> None:
    client = serve()
    model, segmenting = client.app.state.models.get(), client.app.state.segmenting
    with segmenting.admission.entered() as ticket:
        segmentation = Segmentation(png(), model, Wish(how=How(native=True)), ticket, segmenting.settings, segmenting._pools)
        assert len(segmentation._logits_of([np.zeros((64, 64, 3), np.uint8)] * 3)) == 3
        ticket.given_up = True
        with pytest.raises(CancelledError):
            segmentation._logits_of([np.zeros((64, 64, 3), np.uint8)])
    assert not len(segmenting.workers)


def test_metrics_tell_stages_queue_batches_models_and_what_went_wrong(serve) -> None:
    client = serve()
    client.post("/segment", content=png())
    client.post("/segment", content=b"nothing")
    client.post("/segment?model=nobody", content=png())
    told = client.get("/metrics").text
    for line in (
        'segment_requests_total{code="ok",model="random"} 1.0',
        'segment_requests_total{code="not_an_image",model="random"} 1.0',
        'segment_requests_total{code="unknown_model",model="unknown"} 1.0',
        "segment_batch_pictures_count 2.0",  # warming up, and the one picture
        "segment_inside_requests 0.0",
        "segment_queue_pictures 0.0",
        *(f'segment_stage_seconds_count{{stage="{stage}"}} 1.0' for stage in ("decode", "queue", "forward", "label", "encode")),
    ):
        assert line in told
    digest = client.get("/models").json()["models"][0]["digest"]
    assert f'segment_model_loaded{{backend="torch",digest="{digest}",model="random"}} 1.0' in told
    assert "process_resident_memory_bytes" in told


@pytest.mark.parametrize("query", ["", "flip=true", "resolution=native"])
def test_a_back_end_that_keeps_its_logits_on_the_device_serves_what_it_evaluates(serve, checkpoint: Path, query: str) -> None:
    client = serve(backend="torch-fp16", device="cpu,cpu")
    with ThreadPoolExecutor(6) as pool:
        replies = list(pool.map(lambda _: client.post(f"/segment?output=labels&{query}", content=png(150, 200)), range(6)))
    assert {reply.headers["segment-backend"] for reply in replies} == {"torch-fp16"}
    assert len({reply.content for reply in replies}) == 1
    rgb = cv2.imdecode(np.frombuffer(png(150, 200), np.uint8), cv2.IMREAD_COLOR_RGB)
    expected = Segmenter(checkpoint, "cpu", "torch-fp16").many([rgb], how=How("native" in query, "flip" in query))[0]
    found = cv2.imdecode(np.frombuffer(replies[0].content, np.uint8), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("query", ["resolution=native", "flip=true", "resolution=native&flip=true"])
def test_native_resolution_and_flip_are_what_the_segmenter_gives(serve, checkpoint: Path, query: str) -> None:
    client = serve()
    with ThreadPoolExecutor(3) as pool:
        replies = list(pool.map(lambda _: client.post(f"/segment?output=labels&{query}", content=png(150, 200)), range(3)))
    rgb = cv2.imdecode(np.frombuffer(png(150, 200), np.uint8), cv2.IMREAD_COLOR_RGB)
    expected = Segmenter(checkpoint).many([rgb], how=How("native" in query, "flip" in query))[0]
    for reply in replies:
        assert np.array_equal(cv2.imdecode(np.frombuffer(reply.content, np.uint8), cv2.IMREAD_UNCHANGED), expected)
        assert set(re.findall(r"(\w+);", reply.headers["server-timing"])) >= {"decode", "forward", "label", "encode"}
    assert client.app.state.segmenting.admission.requests == 0


def test_the_overlay_at_native_resolution(serve) -> None:
    reply = serve().post("/segment?output=overlay&resolution=native", content=png(150, 200))
    assert reply.headers["content-type"] == "image/jpeg"
    assert cv2.imdecode(np.frombuffer(reply.content, np.uint8), cv2.IMREAD_COLOR).shape == (150, 200, 3)
