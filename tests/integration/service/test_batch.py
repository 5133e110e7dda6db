"""`POST /segment` with several images in one form: the archive, the JSON array, errors, and limits."""

from __future__ import annotations

import gc
import io
import socket
from pathlib import Path
from zipfile import ZIP_STORED, ZipFile

import httpx
import numpy as np
import pytest

from service.api.batch import sanitize_file_name
from service.api.multipart import MAX_PARTS
from service.app import create_app
from service.inference.admission import RequestSlot
from service.inference.pipeline import SegmentationRequest
from service.settings import load_settings
from tests.support.fake_backends import block_workers
from tests.support.live_server import Serve, live_server
from tests.support.sample_images import encode_image
from tests.support.wait import wait_until

PNG, SMALL_JPEG = encode_image(), encode_image("JPEG", np.zeros((20, 30, 3), np.uint8))


def form(*names: str, data: bytes = PNG) -> list[tuple[str, tuple[str, bytes]]]:
    """Return a form with the same image under several file names."""
    return [("file", (name, data)) for name in names]


def read_zip(response: httpx.Response) -> dict[str, bytes]:
    """Return the entries of an archive by name, in its order."""
    assert response.status_code == 200 and response.headers["content-type"] == "application/zip"
    with ZipFile(io.BytesIO(response.content)) as archive:
        assert archive.testzip() is None
        assert {entry.compress_type for entry in archive.infolist()} == {ZIP_STORED}
        return {entry.filename: archive.read(entry) for entry in archive.infolist()}


@pytest.mark.parametrize(
    ("query", "suffix"),
    [("", ".png"), ("output=labels", ".png"), ("output=overlay", ".jpg"), ("output=confidence&flip=true", ".png")],
)
def test_archive_has_result_of_each_image_in_order(serve: Serve, query: str, suffix: str) -> None:
    client, images = serve(), {"z": PNG, "a": SMALL_JPEG}
    files = [("file", (f"{name}.jpeg", data)) for name, data in images.items()]
    entries = read_zip(client.post(f"/segment?{query}", files=files))
    assert list(entries) == [f"z{suffix}", f"a{suffix}"]
    for name, data in images.items():
        assert entries[f"{name}{suffix}"] == client.post(f"/segment?{query}", content=data).content


def test_json_output_is_array_with_file_names(serve: Serve) -> None:
    client = serve()
    response = client.post("/segment?output=json", files=form('ä"b.png', "c.png"))
    assert response.headers["content-type"] == "application/json"
    single = client.post("/segment?output=json", content=PNG).json()
    # httpx and browsers send a quote as %22.
    assert response.json() == [{"file": "ä%22b.png", **single}, {"file": "c.png", **single}]


def test_one_file_gives_image_and_not_archive(serve: Serve) -> None:
    client = serve()
    response = client.post("/segment", files=form("a.png"))
    assert response.headers["content-type"] == "image/png"
    assert response.content == client.post("/segment", content=PNG).content


def test_equal_names_get_numbers(serve: Serve) -> None:
    response = serve().post("/segment", files=form("a.png", "d/a.jpg", "A.png", "a-2.png"))
    assert list(read_zip(response)) == ["a.png", "a-2.png", "A-3.png", "a-2-2.png"]


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ("../../etc/a.jpg", "a.jpg"),
        ("C:\\photos\\a.jpg", "a.jpg"),
        ("a\x1b[31m\0\r\n.jpg", "a[31m.jpg"),
        ("a\u202egpj.exe", "agpj.exe"),
        ("..", "image"),
        ("", "image"),
        (".htaccess", "htaccess"),
        ("a:b?.png", "a_b_.png"),
        ("straße 5.webp", "straße 5.webp"),
        ("x" * 300 + ".png", "x" * 200 + ".png"),
        ("a." + "x" * 300, "a." + "x" * 9),
    ],
)
def test_file_name_is_sanitized(sent: str, expected: str) -> None:
    assert sanitize_file_name(sent) == expected


def test_damaged_image_fails_whole_request_with_its_position(serve: Serve) -> None:
    files = [*form("good.png"), *form("bad.png", data=PNG[:60]), *form("other.png")]
    response = serve().post("/segment", files=files)
    problem = response.json()
    assert (response.status_code, problem["code"]) == (422, "corrupt_image")
    assert problem["detail"].startswith("image 2 of 3: the image is truncated")


def test_empty_file_among_several_is_refused_with_its_position(serve: Serve) -> None:
    problem = serve().post("/segment", files=[*form("a.png"), *form("b.png", data=b"")]).json()
    assert problem["code"] == "empty_file" and problem["detail"].startswith("image 2 of 2 is empty")


def test_maximum_number_of_images_is_accepted(serve: Serve) -> None:
    client = serve()
    assert len(read_zip(client.post("/segment", files=form(*["a.png"] * MAX_PARTS)))) == MAX_PARTS
    problem = client.post("/segment", files=form(*["a.png"] * (MAX_PARTS + 1))).json()
    assert problem["code"] == "too_many_files" and "send at most 16 images" in problem["detail"]


def test_request_occupies_one_slot_and_the_pixels_of_one_image(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    client = serve(queue=1)
    admission, in_flight = client.app.state.inference.admission, []
    reserve_pixels = admission.reserve_pixels

    def record(*arguments: object) -> None:
        reserve_pixels(*arguments)
        in_flight.append((admission.requests, admission.pixels))

    monkeypatch.setattr(admission, "reserve_pixels", record)
    assert client.post("/segment", files=form("a.png", "b.png", "c.png")).status_code == 200
    assert in_flight == [(1, 40 * 60)] * 3
    assert (admission.requests, admission.pixels, admission.bytes) == (0, 0, 0)


def test_results_count_as_bytes_in_flight(serve: Serve) -> None:
    noise = encode_image("JPEG", np.random.default_rng(0).integers(0, 256, (100, 100, 3), np.uint8), quality=5)
    client = serve(max_bytes=5_000, queue_bytes=25_000)
    response = client.post("/segment?output=overlay&format=png", content=noise)
    assert response.status_code == 200 and 25_000 / 2 < len(response.content) < 20_000
    response = client.post("/segment?output=overlay&format=png", files=form("a.jpg", "b.jpg", data=noise))
    assert (response.status_code, response.json()["code"]) == (503, "overloaded")
    assert client.app.state.inference.admission.bytes == 0


def test_deadline_applies_to_all_images_together(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    client, reserve_pixels = serve(), RequestSlot.reserve_pixels

    def expire(slot: RequestSlot, pixels: int) -> None:
        if slot.pixels:  # The deadline passes after the first image.
            slot.deadline = 0
        reserve_pixels(slot, pixels)

    monkeypatch.setattr(RequestSlot, "reserve_pixels", expire)
    response = client.post("/segment", files=form("a.png", "b.png"))
    assert (response.status_code, response.json()["code"]) == (503, "deadline_exceeded")
    assert response.json()["detail"].startswith("image 2 of 2: ") and int(response.headers["retry-after"]) >= 1


def test_metrics_count_images(serve: Serve) -> None:
    client = serve()
    client.post("/segment", files=form("a.png", "b.png", "c.png"))
    client.post("/segment", content=PNG)
    metrics = client.get("/metrics").text
    assert 'segment_images_total{model="random"} 4.0' in metrics
    assert 'segment_requests_total{code="ok",model="random"} 2.0' in metrics
    assert 'segment_stage_seconds_count{stage="decode"} 4.0' in metrics


def test_disconnected_client_cancels_remaining_images(checkpoint: Path, tmp_path: Path) -> None:
    app = create_app(load_settings(checkpoints=[checkpoint], state=tmp_path / "state"))
    content_type = {"Content-Type": "multipart/form-data; boundary=x"}
    data = httpx.Request("POST", "http://x", files=form("a.png", "b.png"), headers=content_type).read()
    with live_server(app) as port:
        inference = app.state.inference
        blocker = block_workers(app)
        with socket.create_connection(("127.0.0.1", port)) as sock:
            headers = "POST /segment HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
            sock.sendall(f"{headers}Content-Length: {len(data)}\r\n\r\n".encode() + data)
            wait_until(lambda: inference.admission.pixels)
        wait_until(lambda: not inference.admission.requests)  # The worker is still blocked.
        blocker.release()
        wait_until(lambda: not len(inference.workers))
        metrics = httpx.get(f"http://127.0.0.1:{port}/metrics").text
        assert 'segment_requests_total{code="client_gone",model="random"} 1.0' in metrics
        assert "segment_batch_size_count 2.0" in metrics  # the warm-up and the blocker


@pytest.mark.parametrize("last", [PNG, PNG[:60]], ids=["valid", "truncated"])
def test_images_are_freed_without_garbage_collection(serve: Serve, last: bytes) -> None:
    client, files = serve(), [*form("a.png", "b.png"), *form("c.png", data=last)]
    client.post("/segment?output=overlay", files=files)
    gc.collect()
    gc.disable()  # Objects in a reference cycle stay in memory until the collector runs.
    try:
        client.post("/segment?output=overlay", files=files)
        wait_until(lambda: not any(type(item) is SegmentationRequest for item in gc.get_objects()), 5)
    finally:
        gc.enable()
