"""Build the images and run them as a user does: train, serve, evaluate, resume, and check how the containers are confined."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from core.checkpoints.checkpoint import read_checkpoint
from core.checkpoints.exported import read_exported_model
from tests.e2e.containers.compose_stack import IMAGES, PROJECT, ComposeStack
from tests.support.browser import chromium
from tests.support.commands import Completed
from tests.support.sample_images import encode_image, sample_image
from tests.support.wait import wait_until

pytestmark = pytest.mark.timeout(3600)  # the first test builds the images

Curl = Callable[..., Completed]
URL = "http://localhost:8000"


def run_image(stack: ComposeStack, image: str, flags: tuple[str, ...], program: str, *arguments: str) -> Completed:
    """Run a program in a new container of an image."""
    return stack.engine.docker("run", "--rm", *flags, "--entrypoint", program, f"{PROJECT}-{image}", *arguments, check=False)


def container_status(stack: ComposeStack, container: str, field: str) -> str:
    return stack.engine.docker("inspect", "-f", f"{{{{.State.{field}}}}}", container).stdout.strip()


@pytest.mark.parametrize("image", IMAGES)
def test_rebuild_after_code_change_reuses_dependency_layer(built: ComposeStack, image: str) -> None:
    rebuild = built.build_logs[f"{image} rebuild"]
    (step,) = set(re.findall(r"^#(\d+) \[.*RUN --mount=type=secret.*pip install", rebuild, re.M))
    assert re.search(rf"^#{step} CACHED", rebuild, re.M)
    assert not re.search(rf"^#{step} CACHED", built.build_logs[image], re.M)


def test_cpu_image_contains_no_torch_or_cuda_and_is_small(stack: ComposeStack) -> None:
    size = int(stack.engine.docker("image", "inspect", "-f", "{{.Size}}", f"{PROJECT}-serve-cpu").stdout)
    assert size < 600e6
    listing = "ls /app/venv/lib/python3*/site-packages; find / -name '*cuda*.so*'"
    installed = run_image(stack, "serve-cpu", (), "sh", "-c", listing).stdout
    assert "openvino\n" in installed and not re.findall(r"torch|nvidia|triton|cuda", installed)


@pytest.mark.parametrize("cpus", ["0.5", "1"])
def test_cpu_quota_of_container_limits_thread_count(stack: ComposeStack, cpus: str) -> None:
    program = "from core.runtime.cpu import NUM_CPUS; print(NUM_CPUS)"
    completed = run_image(stack, "serve-cpu", ("--cpus", cpus), "python", "-c", program)
    assert completed.stdout == "1\n", completed.stderr


def test_train_writes_checkpoint_history_and_curves_to_volume(stack: ComposeStack, trained: str) -> None:
    assert "epoch 1/1" in trained and "done: runs/ddunet/checkpoints/best.safetensors" in trained
    files = stack.run_in_train_image("find", "runs/ddunet", "-type", "f").split()
    names = {"config.json", "history.csv", "curves.png", "checkpoints/epoch-0001.safetensors", "checkpoints/best.safetensors"}
    assert {f"runs/ddunet/{name}" for name in names} <= set(files)
    assert any("/tensorboard/events" in name for name in files)


def test_serve_becomes_healthy_and_serves_trained_checkpoint(stack: ComposeStack, serving: Curl, tmp_path: Path) -> None:
    (container,) = stack.compose("ps", "-q", "serve").stdout.split()
    assert container_status(stack, container, "Health.Status") == "healthy"
    (model,) = json.loads(serving(f"{URL}/models").stdout)["models"]
    stack.compose("cp", "serve:/app/runs/ddunet/checkpoints", tmp_path)
    checkpoint_digest = read_checkpoint(tmp_path / "checkpoints" / "best.safetensors").digest
    assert (model["name"], model["loaded"], model["error"]) == ("ddunet", True, None)
    assert model["digest"] == read_exported_model(tmp_path / "checkpoints" / "best.fp32", checkpoint_digest).digest


def test_segment_returns_mask_through_published_port(serving: Curl, tmp_path: Path) -> None:
    (tmp_path / "street.jpg").write_bytes(encode_image("JPEG", sample_image(100, 200)))
    completed = serving("-F", f"file=@{tmp_path / 'street.jpg'}", f"{URL}/segment", "-o", tmp_path / "mask.png", "-D", "-")
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert "segment-backend: openvino-fp32" in completed.stdout.lower()
    mask = Image.open(tmp_path / "mask.png")
    assert mask.mode == "P" and mask.size == (200, 100) and np.asarray(mask).max() < 19


def test_evaluate_scores_mounted_dataset(serving: Curl) -> None:
    report = json.loads(serving("-X", "POST", f"{URL}/evaluate?wait=true").stdout)
    assert report["data"] == {"name": "cityscapes", "split": "val", "images": 8}
    assert report["checkpoint"]["name"] == "ddunet" and 0 <= report["scores"]["miou"] <= 1


def test_web_page_shows_mask(serving: Curl, tmp_path: Path) -> None:
    (tmp_path / "street.png").write_bytes(encode_image(image=sample_image(100, 200)))
    with chromium() as browser:
        page = browser.new_page()
        page.goto(URL)
        page.set_input_files("#files", tmp_path / "street.png")
        expect(page.locator("#thumbnails .status")).to_have_text("done", timeout=20_000)
        expect(page.locator("canvas.mask")).to_be_visible()


def test_tensorboard_lists_the_run(serving: Curl) -> None:
    def listed_runs() -> list[str]:
        completed = serving("http://localhost:6006/data/runs")
        return json.loads(completed.stdout) if completed.returncode == 0 else []

    wait_until(listed_runs, timeout_s=60, interval_s=0.5)
    assert "ddunet/tensorboard" in listed_runs()


@pytest.mark.parametrize("service", ["serve", "tensorboard"])
def test_running_service_is_unprivileged_and_read_only(stack: ComposeStack, serving: Curl, service: str) -> None:
    assert stack.exec(service, "id", "-u").stdout == "1000\n"
    status = stack.exec(service, "cat", "/proc/self/status").stdout
    assert re.search(r"^CapEff:\s+0+$", status, re.M) and re.search(r"^CapBnd:\s+0+$", status, re.M)
    assert re.search(r"^NoNewPrivs:\s+1$", status, re.M)
    for path in ("/app/core/new", "/app/runs/new", "/home/app/new", "/etc/new"):
        assert "Read-only file system" in stack.exec(service, "touch", path).stderr, path
    assert stack.exec(service, "touch", "/tmp/new").returncode == 0
    assert "size=1048576k" in stack.exec(service, "cat", "/proc/mounts").stdout


def test_training_container_is_unprivileged_and_read_only(stack: ComposeStack) -> None:
    script = "id -u; grep -E '^(CapEff|NoNewPrivs)' /proc/self/status; touch /app/core/new 2>&1; touch /data/new 2>&1; true"
    output = stack.run_in_train_image("sh", "-c", script)
    assert output.startswith("1000\n") and output.count("Read-only file system") == 2
    assert re.search(r"CapEff:\s+0+$", output, re.M) and re.search(r"NoNewPrivs:\s+1$", output, re.M)


@pytest.mark.parametrize("service", ["serve", "tensorboard"])
def test_ports_are_published_on_loopback_only(stack: ComposeStack, serving: Curl, service: str) -> None:
    (container,) = stack.compose("ps", "-q", service).stdout.split()
    ports = json.loads(stack.engine.docker("inspect", "-f", "{{json .NetworkSettings.Ports}}", container).stdout)
    assert {binding["HostIp"] for bindings in ports.values() for binding in bindings or ()} == {"127.0.0.1"}


def test_training_stopped_mid_epoch_resumes(stack: ComposeStack) -> None:
    name = "stopped-mid-epoch"
    flags = ("--model", "ddunet", "--width", 4, "--size", 64, 128, "--batch-size", 4, "--run", "runs/stopped")
    stack.compose("run", "-d", "--name", name, "train", *flags, "--epochs", 1000)
    try:
        wait_until(lambda: "epoch 1/1000" in stack.engine.docker("logs", name, check=False).stdout, 120, interval_s=0.1)
        stack.engine.docker("stop", name)
        assert container_status(stack, name, "ExitCode") == "0"
        log = stack.engine.docker("logs", name).stdout
    finally:
        stack.engine.docker("rm", "-f", name)
    assert "stopped; resume with: python -m training train --run runs/stopped --resume" in log
    epoch = 1 + len(re.findall(r"^epoch (\d+)/1000  loss", log, re.M))
    completed = stack.train("--run", "runs/stopped", "--resume", "--epochs", epoch)
    assert f"resuming after epoch {epoch - 1}" in completed.stdout and f"epoch {epoch}/{epoch}" in completed.stdout
    rows = stack.run_in_train_image("cat", "runs/stopped/history.csv").splitlines()
    assert len(rows) == 1 + epoch


def test_training_image_predicts_masks(stack: ComposeStack, trained: str) -> None:
    command = "python -m training predict runs/ddunet /data/cityscapes/leftImg8bit/val --out runs/masks"
    assert "8 of 8 masks in runs/masks" in stack.run_in_train_image(*command.split())


def test_gpu_image_serves_checkpoint_with_torch_without_gpu(stack: ComposeStack, trained: str) -> None:
    name, image = "serve-with-torch", f"{PROJECT}-serve"
    settings = ("-e", "SEGMENT_ALLOW_ANONYMOUS=1", "-e", "SEGMENT_BACKEND=torch", "-v", f"{PROJECT}_runs:/app/runs:ro")
    confinement = ("--read-only", "--cap-drop", "ALL", "--tmpfs", "/tmp")
    stack.engine.docker("run", "-d", "--name", name, *settings, *confinement, "-p", "127.0.0.1:8001:8000", image)
    try:
        wait_until(lambda: container_status(stack, name, "Health.Status") == "healthy", 60, interval_s=0.2)
        body = encode_image(image=sample_image(100, 200))
        response = httpx.post("http://localhost:8001/segment", content=body, timeout=60)
        assert response.status_code == 200 and response.headers["segment-backend"] == "torch"
    finally:
        stack.engine.docker("rm", "-f", name)


def test_stopped_container_finishes_requests_in_flight(stack: ComposeStack, serving: Curl) -> None:
    """Stops the service, so it must be the last test that uses `serving`."""
    body = encode_image(image=sample_image(256, 512))

    def segment(_: int) -> np.ndarray:
        response = httpx.post(f"{URL}/segment?resolution=native&flip=true", content=body, timeout=60)
        assert response.status_code == 200, response.text
        return np.asarray(Image.open(io.BytesIO(response.content)))

    def requests_in_flight() -> float:
        metrics = httpx.get(f"{URL}/metrics").text
        return sum(map(float, re.findall(r"^segment_inflight_requests(?:\{[^}]*\})? (\S+)", metrics, re.M)))

    with ThreadPoolExecutor(8) as pool:
        requests = [pool.submit(segment, number) for number in range(8)]
        wait_until(lambda: requests_in_flight() >= 8, 30)
        (container,) = stack.compose("ps", "-q", "serve").stdout.split()
        stack.engine.docker("stop", "-t", 30, container)
        masks = [request.result() for request in requests]
    assert all(mask.shape == (256, 512) for mask in masks)
    assert container_status(stack, container, "ExitCode") == "0"
