"""The stages of a request to `/segment`: concurrency, disconnects, memory, metrics, tiling and backends."""

from __future__ import annotations

import gc
import re
import socket
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest

from core.images.decode import decode_image
from core.inference.options import InferenceOptions
from core.inference.segmenter import Segmenter
from service.app import create_app
from service.inference.batching import InferenceFuture
from service.inference.pipeline import OutputOptions, SegmentationRequest
from service.settings import load_settings
from tests.support.fake_backends import block_workers
from tests.support.live_server import Serve, live_server
from tests.support.sample_images import decode_mask, encode_image
from tests.support.wait import wait_until


def noise_png(height: int = 90, width: int = 120) -> bytes:
    return encode_image(image=np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


def test_two_cpu_workers_give_same_mask_as_one(serve: Serve, checkpoint: Path) -> None:
    client, image = serve(device="cpu,cpu"), noise_png()
    with ThreadPoolExecutor(4) as pool:
        responses = list(pool.map(lambda _: client.post("/segment?output=labels", content=image), range(8)))
    expected = Segmenter(checkpoint)(decode_image(image)).labels
    for response in responses:
        assert np.array_equal(decode_mask(response.content), expected)
    assert client.get("/models").json()["models"][0]["devices"] == ["cpu", "cpu"]


def test_multi_pass_request_queues_two_tiles_at_a_time(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request for a large image may delay other requests by two tiles at most."""
    client = serve()
    workers = client.app.state.inference.workers
    wait_until(lambda: not len(workers))  # until the warm-up has ended
    blocker = block_workers(client.app)
    queue_lengths: list[int] = []
    original = workers.submit

    def submit(*args: object, **options: object) -> InferenceFuture:
        future = original(*args, **options)
        queue_lengths.append(len(workers))
        return future

    monkeypatch.setattr(workers, "submit", submit)
    with ThreadPoolExecutor(1) as pool:
        request = pool.submit(client.post, "/segment?resolution=native&flip=true", content=noise_png(600, 400))
        wait_until(lambda: len(queue_lengths) == 2)
        blocker.release()
        assert request.result().status_code == 200
    assert len(queue_lengths) > 24 and max(queue_lengths) == 3  # the blocker and two tiles


@pytest.mark.parametrize("query", ["", "?resolution=native"])
def test_disconnected_client_is_cancelled_before_inference(
    checkpoint: Path, tmp_path: Path, query: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = create_app(load_settings(checkpoints=[checkpoint], state=tmp_path / "state"))
    image = noise_png(300, 300)
    with live_server(app) as port:
        inference = app.state.inference
        url = f"http://127.0.0.1:{port}"
        blocker = block_workers(app)
        with socket.create_connection(("127.0.0.1", port)) as sock:
            headers = f"POST /segment{query} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(image)}\r\n\r\n"
            sock.sendall(headers.encode() + image)
            wait_until(lambda: inference.admission.pixels)  # The request has been admitted and is being decoded.
        wait_until(lambda: not inference.admission.requests)  # The worker is still blocked.
        blocker.release()
        wait_until(lambda: 'segment_requests_total{code="client_gone",model="random"} 1.0' in httpx.get(f"{url}/metrics").text)
        wait_until(lambda: not len(inference.workers))
        assert "segment_batch_size_count 2.0" in httpx.get(f"{url}/metrics").text  # the warm-up and the blocker
    gc.collect()  # asyncio logs an error when a future with an exception that nothing has retrieved is deleted.
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.parametrize("query", ["", "?output=overlay", "?resolution=native", "?flip=true"])
@pytest.mark.parametrize(
    ("image", "status"),
    [(noise_png(), 200), (noise_png()[:60], 422), (noise_png(400, 300), 413)],
    ids=["valid", "truncated", "too large"],
)
def test_request_is_freed_without_garbage_collection(serve: Serve, query: str, image: bytes, status: int) -> None:
    client = serve(max_pixels=100_000)
    client.post(f"/segment{query}", content=image)
    gc.collect()
    gc.disable()  # Objects in a reference cycle stay in memory until the collector runs.
    try:
        assert client.post(f"/segment{query}", content=image).status_code == status
        wait_until(lambda: not any(type(item) is SegmentationRequest for item in gc.get_objects()), 5)
    finally:
        gc.enable()


def test_cancelled_multi_pass_request_stops_between_tiles(serve: Serve) -> None:
    client = serve()
    model, inference = client.app.state.registry.get(), client.app.state.inference
    tiles = [np.zeros((64, 64, 3), np.uint8)] * 3
    with inference.admission.admit() as slot:
        options = OutputOptions(inference=InferenceOptions(tiled=True))
        request = SegmentationRequest(noise_png(), model, options, slot, inference.settings, inference.pools)
        assert len(request._forward_many(tiles)) == 3
        slot.cancelled = True
        with pytest.raises(CancelledError):
            request._forward_many(tiles)
    assert not len(inference.workers)


def test_metrics_report_stages_queue_batches_models_and_errors(serve: Serve) -> None:
    client = serve()
    client.post("/segment", content=noise_png())
    client.post("/segment", content=b"nothing")
    client.post("/segment?model=other", content=noise_png())
    metrics = client.get("/metrics").text
    for line in (
        'segment_requests_total{code="ok",model="random"} 1.0',
        'segment_requests_total{code="unsupported_image_format",model="random"} 1.0',
        'segment_requests_total{code="unknown_model",model="unknown"} 1.0',
        "segment_batch_size_count 2.0",  # the warm-up and one image
        "segment_inflight_requests 0.0",
        "segment_queue_depth 0.0",
        *(f'segment_stage_seconds_count{{stage="{stage}"}} 1.0' for stage in ("decode", "queue", "forward", "label", "encode")),
    ):
        assert line in metrics
    digest = client.get("/models").json()["models"][0]["digest"]
    assert f'segment_model_loaded{{backend="torch",digest="{digest}",model="random"}} 1.0' in metrics
    assert "process_resident_memory_bytes" in metrics


@pytest.mark.parametrize("query", ["", "flip=true", "resolution=native"])
def test_fp16_backend_gives_same_mask_as_segmenter(serve: Serve, checkpoint: Path, query: str) -> None:
    client, image = serve(backend="torch-fp16", device="cpu,cpu"), noise_png(150, 200)
    with ThreadPoolExecutor(6) as pool:
        responses = list(pool.map(lambda _: client.post(f"/segment?output=labels&{query}", content=image), range(6)))
    assert {response.headers["segment-backend"] for response in responses} == {"torch-fp16"}
    assert len({response.content for response in responses}) == 1
    options = InferenceOptions("native" in query, "flip" in query)
    (expected,) = Segmenter(checkpoint, "cpu", "torch-fp16").predict_batch([decode_image(image)], options=options)
    assert np.array_equal(decode_mask(responses[0].content), expected)


@pytest.mark.parametrize("query", ["resolution=native", "flip=true", "resolution=native&flip=true"])
def test_native_resolution_and_flip_give_same_mask_as_segmenter(serve: Serve, checkpoint: Path, query: str) -> None:
    client, image = serve(), noise_png(150, 200)
    with ThreadPoolExecutor(3) as pool:
        responses = list(pool.map(lambda _: client.post(f"/segment?output=labels&{query}", content=image), range(3)))
    options = InferenceOptions("native" in query, "flip" in query)
    (expected,) = Segmenter(checkpoint).predict_batch([decode_image(image)], options=options)
    for response in responses:
        assert np.array_equal(decode_mask(response.content), expected)
        assert set(re.findall(r"(\w+);", response.headers["server-timing"])) >= {"decode", "forward", "label", "encode"}
    assert client.app.state.inference.admission.requests == 0


def test_overlay_at_native_resolution_has_size_of_image(serve: Serve) -> None:
    response = serve().post("/segment?output=overlay&resolution=native", content=noise_png(150, 200))
    assert response.headers["content-type"] == "image/jpeg"
    assert cv2.imdecode(np.frombuffer(response.content, np.uint8), cv2.IMREAD_COLOR).shape == (150, 200, 3)
