"""`python -m service` as a process: startup, shutdown, exit codes and log."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.support.paths import ROOT
from tests.support.sample_images import build_png, encode_image, png_chunks
from tests.support.service_process import ServiceProcess
from tests.support.wait import wait_until
from training.synthetic.dataset import write_scene

Start = Callable[..., ServiceProcess]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """A function that starts a service process with the given environment variables."""
    services: list[ServiceProcess] = []

    def run(cwd: Path = ROOT, **settings: object) -> ServiceProcess:
        services.append(ServiceProcess(tmp_path, cwd, **settings))
        return services[-1]

    yield run
    for service in services:
        service.kill()


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_stop_signal_exits_with_0(start: Start, checkpoint: Path, signal_number: signal.Signals) -> None:
    service = start(SEGMENT_CHECKPOINTS=checkpoint)
    service.wait_until_ready()
    service.process.send_signal(signal_number)
    assert service.wait_for_exit()[0] == 0


def test_duplicate_model_name_exits_with_2_and_one_line(start: Start, checkpoint: Path, tmp_path: Path) -> None:
    shutil.copy(checkpoint, tmp_path)
    code, log = start(SEGMENT_CHECKPOINTS=f"{checkpoint}:{tmp_path}").wait_for_exit()
    assert code == 2 and log.startswith("error: two models have the name 'random'") and log.count("\n") == 1


def test_default_settings_serve_bundled_checkpoints(start: Start, tmp_path: Path) -> None:
    service = start(cwd=tmp_path)
    service.wait_until_ready()
    response = httpx.post(f"{service.url}/segment", content=(ROOT / "docs" / "street.jpg").read_bytes(), timeout=60)
    assert response.status_code == 200 and response.headers["segment-model"] == "unet-cityscapes"


def test_broken_default_model_exits_with_1(start: Start, tmp_path: Path) -> None:
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    code, log = start(SEGMENT_CHECKPOINTS=tmp_path / "bad.safetensors").wait_for_exit()
    assert code == 1 and "bad.safetensors: not a complete safetensors file" in log


def test_port_in_use_exits_with_2(start: Start, checkpoint: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        code, log = start(SEGMENT_CHECKPOINTS=checkpoint, SEGMENT_PORT=listener.getsockname()[1]).wait_for_exit()
    assert code == 2 and "(Address already in use)" in log and log.count("\n") == 1


def test_unknown_variable_exits_with_2_and_one_line(start: Start, checkpoint: Path) -> None:
    code, log = start(SEGMENT_CHECKPOINTS=checkpoint, SEGMENT_APIKEYS="admin:" + "k" * 16).wait_for_exit()
    assert code == 2 and "did you mean SEGMENT_API_KEYS" in log and log.count("\n") == 1 and "kkk" not in log


def test_decoder_warnings_are_not_logged(start: Start, checkpoint: Path) -> None:
    service = start(SEGMENT_CHECKPOINTS=checkpoint)
    service.wait_until_ready()
    # libpng would warn about every invalid tRNS chunk, Pillow about every invalid EXIF entry, and libjpeg about missing data,
    # which is an error here.
    first, *rest = png_chunks(encode_image())
    invalid_chunks = [(b"tRNS", b"123456")] * 200
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x05" + b"\x01\x0e\0\x02\0\0\xff\xff\0\0\xff\xff" * 5
    truncated = encode_image("JPEG")[:-20] + b"\xff\xd9"
    png, jpeg = build_png([first, *invalid_chunks, *rest]), encode_image("JPEG", exif=exif)
    statuses = [httpx.post(f"{service.url}/segment", content=data).status_code for data in (png, jpeg, truncated)]
    assert statuses == [200, 200, 422]
    service.process.terminate()
    code, log = service.wait_for_exit()
    assert code == 0 and "POST /segment" in log and "libpng" not in log and "EXIF" not in log and "Corrupt" not in log
    assert log.count("\n") < 20


def test_crash_is_logged(start: Start, checkpoint: Path) -> None:
    service = start(SEGMENT_CHECKPOINTS=checkpoint)
    service.wait_until_ready()
    service.process.send_signal(signal.SIGABRT)
    code, log = service.wait_for_exit()
    assert code == -signal.SIGABRT and "Fatal Python error: Aborted" in log


def test_help_lists_settings() -> None:
    command = [sys.executable, "-m", "service", "--help"]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "SEGMENT_CHECKPOINTS" in output and "SEGMENT_MAX_PIXELS" in output


def test_unusable_state_directory_exits_with_2_and_one_line(start: Start, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code, log = start(SEGMENT_CHECKPOINTS=checkpoint, SEGMENT_STATE=tmp_path / "file" / "state").wait_for_exit()
    assert code == 2 and log.startswith("error: SEGMENT_STATE") and log.count("\n") == 1


@pytest.mark.parametrize(("name", "value"), [("SEGMENT_DEVICE", "cuda:9"), ("SEGMENT_BACKEND", "abacus")])
def test_unavailable_device_or_backend_exits_with_2(start: Start, checkpoint: Path, name: str, value: str) -> None:
    code, log = start(SEGMENT_CHECKPOINTS=checkpoint, **{name: value}).wait_for_exit()
    assert code == 2 and value in log.splitlines()[-1]


def test_shutdown_does_not_wait_for_evaluation(start: Start, checkpoint: Path, tmp_path: Path) -> None:
    for index in range(120):
        write_scene(tmp_path / "scenes", "val", index, (256, 512), seed=0)
    service = start(SEGMENT_CHECKPOINTS=checkpoint, SEGMENT_DATA=tmp_path / "scenes")
    service.wait_until_ready()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(httpx.post, f"{service.url}/evaluate?wait=true", timeout=60)
        wait_until(lambda: httpx.get(f"{service.url}/evaluate").json()["evaluations"])
        service.process.send_signal(signal.SIGTERM)
        assert service.wait_for_exit()[0] == 0
        assert waiting.result().json()["code"] == "shutting_down"
    stored = json.loads(next((tmp_path / "state" / "evaluations").glob("*.json")).read_text())
    assert stored["state"] == "interrupted"
