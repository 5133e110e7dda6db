"""The service as a process: start, stop and exit codes."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.support.sample_images import chunks, encoded, png_of
from tests.support.service_process import ROOT, Process
from training.commands.synthesize import write_scene


@pytest.fixture
def start(tmp_path: Path) -> Iterator:
    started: list[Process] = []

    def run(cwd: Path = ROOT, **settings: object) -> Process:
        started.append(Process(tmp_path, cwd, **settings))
        return started[-1]

    yield run
    for process in started:
        process.process.kill()
        process.process.communicate()


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_service_ends_with_0(start, checkpoint: Path, stop: signal.Signals) -> None:
    service = start(SEGMENT_CHECKPOINTS=checkpoint)
    service.until_ready()
    service.process.send_signal(stop)
    assert service.ended()[0] == 0


def test_a_name_met_twice_ends_with_2_and_one_line(start, checkpoint: Path, tmp_path: Path) -> None:
    shutil.copy(checkpoint, tmp_path)
    code, out = start(SEGMENT_CHECKPOINTS=f"{checkpoint}:{tmp_path}").ended()
    assert code == 2 and out.startswith("error: the model name 'random' is met twice") and out.count("\n") == 1


def test_a_service_with_no_setting_serves_the_checkpoints_that_ship(start, tmp_path: Path) -> None:
    service = start(cwd=tmp_path)
    service.until_ready()
    reply = httpx.post(f"{service.url}/segment", content=(ROOT / "docs" / "street.jpg").read_bytes(), timeout=60)
    assert reply.status_code == 200 and reply.headers["segment-model"] == "ddunet"


def test_an_unusable_default_model_ends_with_1(start, tmp_path: Path) -> None:
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    code, out = start(SEGMENT_CHECKPOINTS=tmp_path / "bad.safetensors").ended()
    assert code == 1 and "bad.safetensors: not a whole safetensors file" in out


def test_a_taken_port_ends_with_1(start, checkpoint: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code, out = start(SEGMENT_CHECKPOINTS=checkpoint, SEGMENT_PORT=taken.getsockname()[1]).ended()
    assert code == 1 and "can't be listened on (Address already in use)" in out and "serving" not in out


def test_faults_of_an_upload_do_not_fill_the_log(start, checkpoint: Path) -> None:
    service = start(SEGMENT_CHECKPOINTS=checkpoint)
    service.until_ready()
    # libpng would warn of each of them, and Pillow of the EXIF
    (first, *rest), faults = chunks(encoded()), [(b"tRNS", b"123456")] * 200
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x05" + b"\x01\x0e\0\x02\0\0\xff\xff\0\0\xff\xff" * 5
    for data in (png_of([first, *faults, *rest]), encoded("JPEG", exif=exif)):
        assert httpx.post(f"{service.url}/segment", content=data).status_code == 200
    service.process.terminate()
    code, out = service.ended()
    assert code == 0 and "POST /segment" in out and "libpng" not in out and "EXIF" not in out and out.count("\n") < 20


def test_a_crash_is_told_all_the_same(start, checkpoint: Path) -> None:
    service = start(SEGMENT_CHECKPOINTS=checkpoint)
    service.until_ready()
    service.process.send_signal(signal.SIGABRT)
    code, out = service.ended()
    assert code == -signal.SIGABRT and "Fatal Python error: Aborted" in out


def test_help_lists_every_setting() -> None:
    out = subprocess.run(
        [sys.executable, "-m", "service", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert "SEGMENT_CHECKPOINTS" in out and "SEGMENT_MAX_PIXELS" in out


def test_a_state_folder_that_can_t_be_made_ends_with_2_and_one_line(start, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code, out = start(SEGMENT_CHECKPOINTS=checkpoint, SEGMENT_STATE=tmp_path / "file" / "state").ended()
    assert code == 2 and out.startswith("error: SEGMENT_STATE") and out.count("\n") == 1


@pytest.mark.parametrize(("name", "value"), [("SEGMENT_DEVICE", "cuda:9"), ("SEGMENT_BACKEND", "abacus")])
def test_a_device_or_back_end_that_is_not_there_ends_with_2(start, checkpoint: Path, name: str, value: str) -> None:
    code, out = start(SEGMENT_CHECKPOINTS=checkpoint, **{name: value}).ended()
    assert code == 2 and value in out.splitlines()[-1]


def test_an_evaluation_that_is_waited_for_does_not_hold_up_a_stop(start, checkpoint: Path, tmp_path: Path) -> None:
    for index in range(120):
        write_scene(tmp_path / "many", "val", index, (256, 512), seed=0)
    service = start(SEGMENT_CHECKPOINTS=checkpoint, SEGMENT_DATA=tmp_path / "many")
    service.until_ready()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(httpx.post, f"{service.url}/evaluate?wait=true", timeout=60)
        while not httpx.get(f"{service.url}/evaluate").json()["evaluations"]:
            time.sleep(0.01)
        service.process.send_signal(signal.SIGTERM)
        assert service.ended()[0] == 0
        assert waiting.result().json()["code"] == "shutting_down"
    stored = json.loads(next((tmp_path / "state" / "evaluations").glob("*.json")).read_text())
    assert stored["state"] == "interrupted"
