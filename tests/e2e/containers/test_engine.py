"""Images and containers, run for real: what a user types, through the published ports, and what guards them."""

from __future__ import annotations

import io
import json
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from core.checkpoints.checkpoint import read_checkpoint
from core.checkpoints.exported import read_artefact
from tests.e2e.browser.browser import chromium
from tests.e2e.containers.conftest import IMAGES, PROJECT, Stack
from tests.e2e.containers.run import Done
from tests.support.sample_images import encoded, photo

Curl = Callable[..., Done]
URL = "http://localhost:8000"


def in_container(stack: Stack, service: str, *command: object) -> Done:
    return stack.compose("exec", "-T", service, *command, check=False)


def in_image(stack: Stack, image: str, flags: tuple[str, ...], program: str, *arguments: str) -> Done:
    """A container of its own."""
    return stack.engine.docker("run", "--rm", *flags, "--entrypoint", program, f"{PROJECT}-{image}", *arguments, check=False)


@pytest.mark.parametrize("image", IMAGES)
def test_a_change_of_code_leaves_the_dependencies_as_they_are(built: Stack, image: str) -> None:
    again = built.told[f"{image} again"]
    (step,) = set(re.findall(r"^#(\d+) \[.*RUN --mount=type=secret.*pip install", again, re.M))
    assert re.search(rf"^#{step} CACHED", again, re.M)
    assert not re.search(rf"^#{step} CACHED", built.told[image], re.M)


def test_the_image_for_a_cpu_holds_neither_torch_nor_cuda_and_is_small(stack: Stack) -> None:
    size = int(stack.engine.docker("image", "inspect", "-f", "{{.Size}}", f"{PROJECT}-serve-cpu").stdout)
    assert size < 600e6
    listing = "ls /app/venv/lib/python3*/site-packages; find / -name '*cuda*.so*'"
    installed = in_image(stack, "serve-cpu", (), "sh", "-c", listing).stdout
    assert "openvino\n" in installed and not re.findall(r"torch|nvidia|triton|cuda", installed)


@pytest.mark.parametrize("cpus", ["0.5", "1"])
def test_a_container_s_share_of_the_cores_is_known(stack: Stack, cpus: str) -> None:
    told = in_image(stack, "serve-cpu", ("--cpus", cpus), "python", "-c", "from core.runtime.cpu import CORES; print(CORES)")
    assert told.stdout == "1\n", told.stderr


def test_run_train_writes_a_checkpoint_an_evaluation_and_curves_to_the_volume(stack: Stack, trained: str) -> None:
    assert "epoch 1/1" in trained and "done: runs/ddunet/checkpoints/best.safetensors" in trained
    found = stack.runs("find", "runs/ddunet", "-type", "f").split()
    wanted = {"config.json", "history.csv", "curves.png", "checkpoints/epoch-0001.safetensors", "checkpoints/best.safetensors"}
    assert {f"runs/ddunet/{name}" for name in wanted} <= set(found)
    assert any("/tensorboard/events" in name for name in found)


def test_serve_becomes_healthy_and_serves_that_checkpoint(stack: Stack, serving: Curl, tmp_path: Path) -> None:
    (container,) = stack.compose("ps", "-q", "serve").stdout.split()
    assert stack.engine.docker("inspect", "-f", "{{.State.Health.Status}}", container).stdout == "healthy\n"
    (model,) = json.loads(serving(f"{URL}/models").stdout)["models"]
    stack.compose("cp", "serve:/app/runs/ddunet/checkpoints", tmp_path)
    source = read_checkpoint(tmp_path / "checkpoints" / "best.safetensors").digest
    assert (model["name"], model["loaded"], model["error"]) == ("ddunet", True, None)
    assert model["digest"] == read_artefact(tmp_path / "checkpoints" / "best.fp32", source).digest


def test_a_photograph_gets_its_mask_through_the_published_port(serving: Curl, tmp_path: Path) -> None:
    (tmp_path / "street.jpg").write_bytes(encoded("JPEG", photo(100, 200)))
    done = serving("-F", f"file=@{tmp_path / 'street.jpg'}", f"{URL}/segment", "-o", tmp_path / "mask.png", "-D", "-")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "segment-backend: openvino-fp32" in done.stdout.lower()
    mask = Image.open(tmp_path / "mask.png")
    assert mask.mode == "P" and mask.size == (200, 100) and np.asarray(mask).max() < 19


def test_an_evaluation_scores_the_data_that_is_mounted(serving: Curl) -> None:
    report = json.loads(serving("-X", "POST", f"{URL}/evaluate?wait=true").stdout)
    assert report["data"] == {"name": "cityscapes", "split": "val", "images": 8}
    assert report["checkpoint"]["name"] == "ddunet" and 0 <= report["scores"]["macro_iou"] <= 1


def test_the_page_shows_a_mask(serving: Curl, tmp_path: Path) -> None:
    (tmp_path / "street.png").write_bytes(encoded(picture=photo(100, 200)))
    with chromium() as browser:
        page = browser.new_page()
        page.goto(URL)
        page.set_input_files("#files", tmp_path / "street.png")
        expect(page.locator(".strip .told")).to_have_text("done", timeout=20_000)
        expect(page.locator("canvas.mask")).to_be_visible()


def test_tensorboard_shows_the_run(serving: Curl) -> None:
    for _ in range(120):
        done = serving("http://localhost:6006/data/runs")
        if done.returncode == 0 and json.loads(done.stdout):
            break
        time.sleep(0.5)
    assert "ddunet/tensorboard" in json.loads(done.stdout)


@pytest.mark.parametrize("service", ["serve", "tensorboard"])
def test_what_runs_is_not_root_can_write_nowhere_and_may_nothing(stack: Stack, serving: Curl, service: str) -> None:
    assert in_container(stack, service, "id", "-u").stdout == "1000\n"
    status = in_container(stack, service, "cat", "/proc/self/status").stdout
    assert re.search(r"^CapEff:\s+0+$", status, re.M) and re.search(r"^CapBnd:\s+0+$", status, re.M)
    assert re.search(r"^NoNewPrivs:\s+1$", status, re.M)
    for place in ("/app/core/new", "/app/runs/new", "/home/app/new", "/etc/new"):
        assert "Read-only file system" in in_container(stack, service, "touch", place).stderr, place
    assert in_container(stack, service, "touch", "/tmp/new").returncode == 0
    assert "size=1048576k" in in_container(stack, service, "cat", "/proc/mounts").stdout


def test_training_is_guarded_too(stack: Stack) -> None:
    told = stack.runs(
        "sh",
        "-c",
        "id -u; grep -E '^(CapEff|NoNewPrivs)' /proc/self/status; touch /app/core/new 2>&1; touch /data/new 2>&1; true",
    )
    assert told.startswith("1000\n") and re.search(r"CapEff:\s+0+$", told, re.M) and re.search(r"NoNewPrivs:\s+1$", told, re.M)
    assert told.count("Read-only file system") == 2


def test_ports_are_open_on_this_machine_only(stack: Stack, serving: Curl) -> None:
    for service in ("serve", "tensorboard"):
        (container,) = stack.compose("ps", "-q", service).stdout.split()
        ports = json.loads(stack.engine.docker("inspect", "-f", "{{json .NetworkSettings.Ports}}", container).stdout)
        assert {binding["HostIp"] for bindings in ports.values() for binding in bindings or ()} == {"127.0.0.1"}


def test_training_that_is_stopped_in_mid_epoch_goes_on(stack: Stack) -> None:
    name, flags = (
        "stopped-in-mid-epoch",
        ("--model", "ddunet", "--width", 4, "--size", 64, 128, "--batch-size", 4, "--run", "runs/stopped"),
    )
    stack.compose("run", "-d", "--name", name, "train", *flags, "--epochs", 1000)
    try:
        for _ in range(600):
            log = stack.engine.docker("logs", name, check=False)
            if "epoch 1/1000" in log.stdout:
                break
            time.sleep(0.1)
        stack.engine.docker("stop", name)
        assert stack.engine.docker("inspect", "-f", "{{.State.ExitCode}}", name).stdout == "0\n"
        told = stack.engine.docker("logs", name).stdout
    finally:
        stack.engine.docker("rm", "-f", name)
    assert "stopped; go on with: python -m training train --run runs/stopped --resume" in told
    epoch = 1 + len(re.findall(r"^epoch (\d+)/1000  loss", told, re.M))
    done = stack.train("--run", "runs/stopped", "--resume", "--epochs", epoch)
    assert f"going on after epoch {epoch - 1}" in done.stdout and f"epoch {epoch}/{epoch}" in done.stdout
    rows = stack.runs("cat", "runs/stopped/history.csv").splitlines()
    assert len(rows) == 1 + epoch


def test_masks_are_made_by_the_image_for_training(stack: Stack, trained: str) -> None:
    command = "python -m training predict runs/ddunet /data/cityscapes/leftImg8bit/val --out runs/masks"
    assert "8 of 8 masks in runs/masks" in stack.runs(*command.split())


def test_the_image_for_gpus_serves_a_checkpoint_by_torch_and_without_a_gpu_too(stack: Stack, trained: str) -> None:
    settings = ("-e", "SEGMENT_ALLOW_ANONYMOUS=1", "-e", "SEGMENT_BACKEND=torch", "-v", f"{PROJECT}_runs:/app/runs:ro")
    name, guards = "serve-by-torch", ("--read-only", "--cap-drop", "ALL", "--tmpfs", "/tmp")
    stack.engine.docker("run", "-d", "--name", name, *settings, *guards, "-p", "127.0.0.1:8001:8000", f"{PROJECT}-serve")
    try:
        until = time.monotonic() + 60
        while stack.engine.docker("inspect", "-f", "{{.State.Health.Status}}", name).stdout != "healthy\n":
            assert time.monotonic() < until, stack.engine.docker("logs", name).stderr
            time.sleep(0.2)
        answer = httpx.post("http://localhost:8001/segment", content=encoded(picture=photo(100, 200)), timeout=60)
        assert answer.status_code == 200 and answer.headers["segment-backend"] == "torch"
    finally:
        stack.engine.docker("rm", "-f", name)


def test_sigterm_lets_what_was_accepted_come_to_its_end(stack: Stack, serving: Curl) -> None:
    """Eight requests are on their way when the container is stopped; the last test that needs it."""
    picture = encoded(picture=photo(256, 512))

    def ask(_: int) -> bytes:
        answer = httpx.post(f"{URL}/segment?resolution=native&flip=true", content=picture, timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.content

    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask, n) for n in range(8)]
        until = time.monotonic() + 30
        while time.monotonic() < until:
            metrics = httpx.get(f"{URL}/metrics").text
            inside = sum(float(n) for n in re.findall(r"^segment_inside_requests(?:\{[^}]*\})? (\S+)", metrics, re.M))
            if inside >= 8:
                break
        assert inside >= 8
        (container,) = stack.compose("ps", "-q", "serve").stdout.split()
        stack.engine.docker("stop", "-t", 30, container)
        masks = [np.asarray(Image.open(io.BytesIO(one.result()))) for one in asked]
    assert all(mask.shape == (256, 512) for mask in masks)
    assert stack.engine.docker("inspect", "-f", "{{.State.ExitCode}}", container).stdout == "0\n"
