"""Bad checkpoints of every kind: as the default model, as another model, and at a reload, which keeps the old weights."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient

from core.checkpoints import safetensors_io
from core.checkpoints.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from service.app import create_app
from service.settings import load_settings
from tests.support.checkpoints import make_checkpoint
from tests.support.sample_images import encode_image
from tests.support.wait import wait_until
from training.export.openvino import export_fp32

PNG = encode_image()


class MaliciousPickle:
    """An object that creates the directory `pickle-was-loaded` when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("pickle-was-loaded",)


def with_change(change: Callable[[dict, dict], None]) -> Callable[[Path], None]:
    """Return a function that changes metadata or tensors of a checkpoint and writes it with a valid digest."""

    def corrupt(path: Path) -> None:
        document, tensors = safetensors_io.read(path)
        change(document, tensors)
        path.unlink()
        safetensors_io.write(path, document, tensors)

    return corrupt


def flip_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-100] ^= 4
    path.write_bytes(data)


def swap_weights(path: Path) -> None:
    metadata = read_checkpoint(path).metadata
    other = read_checkpoint(make_checkpoint(path.with_name("other"), "unet"))
    path.with_name("other").unlink()
    write_checkpoint(path, metadata, other.tensors)


def replace_by_link(path: Path) -> None:
    outside = path.parents[1] / "outside.safetensors"
    path.rename(outside)
    path.symlink_to(outside)


def with_header(header: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(len(header).to_bytes(8, "little") + header)


CORRUPTIONS: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-5000]),
    "html": lambda path: path.write_bytes(b"<!doctype html><title>404</title>" * 100),
    "trailing bytes": lambda path: path.write_bytes(path.read_bytes() + b"more"),
    "one wrong bit": flip_bit,
    "pickle": lambda path: path.write_bytes(pickle.dumps(MaliciousPickle())),
    "torch file": lambda path: torch.save({"weights": torch.ones(3)}, path),
    "bare list": with_header(b"[1, 2]"),
    "list for metadata": with_header(b'{"__metadata__": {"segment": "[1, 2]"}}'),
    "deep list for metadata": with_header(b'{"__metadata__": {"segment": "' + b"[" * 100_000 + b'"}}'),
    "nan": with_change(lambda _, tensors: tensors["head.bias"].__setitem__(0, np.nan)),
    "weights of another architecture": swap_weights,
    "unknown architecture": with_change(lambda document, _: document["architecture"].update(name="segnet")),
    "wrong number of classes": with_change(lambda _, tensors: tensors.update({"head.bias": tensors["head.bias"][:5]})),
    "missing tensor": with_change(lambda _, tensors: tensors.pop("head.bias")),
    "additional tensor": with_change(lambda _, tensors: tensors.update(extra=np.ones(3, np.float32))),
    "input size of 0": with_change(lambda document, _: document["preprocess"].update(size=[0, 0])),
    "input size larger than memory": with_change(lambda document, _: document["preprocess"].update(size=[30_000, 30_000])),
    "standard deviation of 0": with_change(lambda document, _: document["preprocess"].update(std=[0, 0, 0])),
    "network of 40 GB": with_change(lambda document, _: document["architecture"].update(width=1024)),
    "future schema version": with_change(lambda document, _: document.update(schema_version=3)),
    "unknown metadata entry": with_change(lambda document, _: document.update(color="red")),
    "link to a file outside of the directory": replace_by_link,
    "header bomb": with_header(b"{" + b'"a":0,' * 900_000 + b"}"),
    "header of 2 ** 63 bytes": lambda path: path.write_bytes((1 << 63).to_bytes(8, "little") + b"{}"),
    "deleted": lambda path: path.unlink(),
}
Start = Callable[[list[str], list[str], str], tuple[TestClient, list[tuple[str, int]]]]


@pytest.fixture
def start(tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """A function that starts a service with some models, of which some are corrupted after their discovery.

    It returns a client and the list of startup failures as (reason, exit code) pairs. The first model is the default one.
    """
    monkeypatch.chdir(tmp_path)  # `MaliciousPickle` would create its directory here.
    with ExitStack() as stack:

        def run(models: list[str], bad_models: list[str], corruption: str) -> tuple[TestClient, list[tuple[str, int]]]:
            (tmp_path / "models").mkdir()
            for name in models:
                shutil.copy(checkpoint, tmp_path / "models" / f"{name}.safetensors")
            settings = load_settings(
                checkpoints=[tmp_path / "models"], model=models[0], state=tmp_path / "state", allowed_hosts=["testserver"]
            )
            failures: list[tuple[str, int]] = []
            app = create_app(settings, on_startup_failure=lambda *failure: failures.append(failure))
            for name in bad_models:
                CORRUPTIONS[corruption](tmp_path / "models" / f"{name}.safetensors")
            client = stack.enter_context(TestClient(app, raise_server_exceptions=False))
            wait_until(lambda: failures or app.state.ready)
            return client, failures

        yield run
    assert not (tmp_path / "pickle-was-loaded").exists()


def unavailable_model_error(client: TestClient, name: str, url: str) -> str:
    """Check that a POST to `url` returns 503 `model_unavailable`, and return the error of the model from `/models`."""
    response = client.post(url, content=PNG)
    assert (response.status_code, response.json()["code"]) == (503, "model_unavailable")
    error: str = next(model["error"] for model in client.get("/models").json()["models"] if model["name"] == name)
    assert f"{name}.safetensors: " in error and "\n" not in error
    return error


def wait_until_all_models_are_read(client: TestClient) -> None:
    wait_until(lambda: all(model["error"] or model["digest"] for model in client.get("/models").json()["models"]))


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_bad_default_model_stops_service(start: Start, corruption: str) -> None:
    _, failures = start(["bad"], ["bad"], corruption)
    ((reason, code),) = failures
    assert code == 1 and "bad.safetensors: " in reason and "\n" not in reason


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_bad_other_model_is_listed_with_error_before_its_first_use(start: Start, corruption: str) -> None:
    client, _ = start(["good", "bad"], ["bad"], corruption)
    wait_until_all_models_are_read(client)
    models = {model["name"]: model for model in client.get("/models").json()["models"]}
    assert models["good"]["error"] is None and models["bad"]["digest"] is None
    assert models["bad"]["error"] == unavailable_model_error(client, "bad", "/segment?model=bad")
    assert client.post("/segment", content=PNG).status_code == 200


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_reload_of_bad_checkpoint_keeps_old_weights(start: Start, tmp_path: Path, corruption: str) -> None:
    client, _ = start(["m"], [], "")
    before = client.post("/segment", content=PNG)
    CORRUPTIONS[corruption](tmp_path / "models" / "m.safetensors")
    unavailable_model_error(client, "m", "/models/m/reload")
    after = client.post("/segment", content=PNG)
    assert after.status_code == 200 and after.content == before.content
    assert after.headers["segment-digest"] == before.headers["segment-digest"]


def test_bad_checkpoint_is_read_again_only_after_change(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[Path] = []

    def record_read(path: Path, name: str) -> Checkpoint:
        reads.append(path)
        return read_checkpoint(path, name)

    monkeypatch.setattr("service.inference.registry.read_checkpoint", record_read)
    client, _ = start(["good", "bad"], ["bad"], "one wrong bit")
    path = tmp_path / "models" / "bad.safetensors"
    wait_until_all_models_are_read(client)
    for _ in range(5):
        unavailable_model_error(client, "bad", "/segment?model=bad")
    assert reads.count(path) == 1
    shutil.copy(tmp_path / "models" / "good.safetensors", path)
    assert client.post("/segment?model=bad", content=PNG).status_code == 200
    assert reads.count(path) == 2


def test_new_exported_model_makes_checkpoint_usable(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client, _ = start(["good", "other"], [], "")
    wait_until_all_models_are_read(client)
    with monkeypatch.context() as without_torch:
        without_torch.setattr("core.backends.loader.find_spec", lambda name: None)
        error = unavailable_model_error(client, "other", "/segment?model=other")
        assert "no usable exported model beside the checkpoint" in error
    export_fp32(read_checkpoint(tmp_path / "models" / "other.safetensors"), None)
    response = client.post("/segment?model=other", content=PNG)
    assert (response.status_code, response.headers["segment-backend"]) == (200, "openvino-fp32")


def test_several_bad_models_are_all_listed_with_errors(start: Start) -> None:
    client, _ = start(["first", "bad", "good", "worse"], ["bad", "worse"], "one wrong bit")
    wait_until_all_models_are_read(client)
    errors = {model["name"]: model["error"] for model in client.get("/models").json()["models"]}
    assert errors["bad"] and errors["worse"] and not errors["good"] and not errors["first"]


def test_missing_checkpoint_is_read_after_its_return(start: Start, tmp_path: Path) -> None:
    client, _ = start(["good", "bad"], [], "")
    path = tmp_path / "models" / "bad.safetensors"
    path.rename(tmp_path / "elsewhere")
    unavailable_model_error(client, "bad", "/segment?model=bad")
    (tmp_path / "elsewhere").rename(path)
    assert client.post("/segment?model=bad", content=PNG).status_code == 200
