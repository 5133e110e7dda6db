"""Every kind of bad checkpoint: the default one ends the service, another is listed, at a reload the old one serves on."""

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
from core.checkpoints.checkpoint import read_checkpoint, write_checkpoint
from service.app import create_app
from service.settings import load_settings
from tests.conftest import make_checkpoint
from tests.integration.service.conftest import until
from tests.support.sample_images import encoded
from training.export.openvino import export_fp32

PNG = encoded()


class Runs:
    """What a pickle can do."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("ran",)


def changed(change: Callable[[dict, dict], None]) -> Callable[[Path], None]:
    """Writes a checkpoint with a right digest whose metadata or tensors are wrong."""

    def spoil(path: Path) -> None:
        document, tensors = safetensors_io.read(path)
        change(document, tensors)
        path.unlink()
        safetensors_io.write(path, document, tensors)

    return spoil


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-100] ^= 4
    path.write_bytes(data)


def another_architecture(path: Path) -> None:
    card = read_checkpoint(path).card
    other = read_checkpoint(make_checkpoint(path.with_name("other"), "unet"))
    path.with_name("other").unlink()
    write_checkpoint(path, card, other.tensors)


def linked(path: Path) -> None:
    outside = path.parents[1] / "outside.safetensors"
    path.rename(outside)
    path.symlink_to(outside)


def with_header(text: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(len(text).to_bytes(8, "little") + text)


KINDS: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "half": lambda path: path.write_bytes(path.read_bytes()[:-5000]),
    "html": lambda path: path.write_bytes(b"<!doctype html><title>404</title>" * 100),
    "trailing bytes": lambda path: path.write_bytes(path.read_bytes() + b"more"),
    "one bit": flipped,
    "pickle": lambda path: path.write_bytes(pickle.dumps(Runs())),
    "torch file": lambda path: torch.save({"weights": torch.ones(3)}, path),
    "bare list": with_header(b"[1, 2]"),
    "list for metadata": with_header(b'{"__metadata__": {"segment": "[1, 2]"}}'),
    "deep list for metadata": with_header(b'{"__metadata__": {"segment": "' + b"[" * 100_000 + b'"}}'),
    "nan": changed(lambda _, tensors: tensors["head.bias"].__setitem__(0, np.nan)),
    "another architecture": another_architecture,
    "an unknown architecture": changed(lambda document, _: document["architecture"].update(name="segnet")),
    "another number of classes": changed(lambda _, tensors: tensors.update({"head.bias": tensors["head.bias"][:5]})),
    "a tensor missing": changed(lambda _, tensors: tensors.pop("head.bias")),
    "a tensor too many": changed(lambda _, tensors: tensors.update(extra=np.ones(3, np.float32))),
    "no pixels": changed(lambda document, _: document["preprocess"].update(size=[0, 0])),
    "more pixels than memory": changed(lambda document, _: document["preprocess"].update(size=[30_000, 30_000])),
    "a deviation of 0": changed(lambda document, _: document["preprocess"].update(std=[0, 0, 0])),
    "a network of 40 GB": changed(lambda document, _: document["architecture"].update(width=1024)),
    "a schema from the future": changed(lambda document, _: document.update(schema_version=2)),
    "an entry from the future": changed(lambda document, _: document.update(colour="red")),
    "a link out of the folder": linked,
    "header bomb": with_header(b"{" + b'"a":0,' * 900_000 + b"}"),
    "header of 2 ** 63 bytes": lambda path: path.write_bytes((1 << 63).to_bytes(8, "little") + b"{}"),
    "gone": lambda path: path.unlink(),
}


@pytest.fixture
def start(tmp_path: Path, checkpoint: Path) -> Iterator[Callable[..., tuple[TestClient, list]]]:
    """Starts a service with these models, some of them spoilt after they were found; and what made it give up."""
    with ExitStack() as stack:

        def run(models: list[str], spoilt: list[str], kind: str) -> tuple[TestClient, list]:
            (tmp_path / "models").mkdir()
            for name in models:
                shutil.copy(checkpoint, tmp_path / "models" / f"{name}.safetensors")
            settings = load_settings(
                checkpoints=[tmp_path / "models"], model=models[0], state=tmp_path / "state", allowed_hosts=["testserver"]
            )
            given_up: list[tuple[str, int]] = []
            app = create_app(settings, on_unusable=lambda *told: given_up.append(told))
            for name in spoilt:
                KINDS[kind](tmp_path / "models" / f"{name}.safetensors")
            client = stack.enter_context(TestClient(app, raise_server_exceptions=False))
            until(lambda: given_up or app.state.ready)
            return client, given_up

        yield run


def refused(client: TestClient, name: str, method: str) -> str:
    """The model answers 503; what /models tells of it."""
    reply = client.post(method, content=PNG)
    assert (reply.status_code, reply.json()["code"]) == (503, "model_unusable")
    told = next(model["error"] for model in client.get("/models").json()["models"] if model["name"] == name)
    assert f"{name}.safetensors: " in told and "\n" not in told
    return told


@pytest.mark.parametrize("kind", KINDS)
def test_as_the_default_one_it_ends_the_service(start, kind: str) -> None:
    _, given_up = start(["bad"], ["bad"], kind)
    ((reason, code),) = given_up
    assert code == 1 and "bad.safetensors: " in reason and "\n" not in reason


@pytest.mark.parametrize("kind", KINDS)
def test_another_is_listed_with_its_error_before_anybody_asks_for_it(start, kind: str) -> None:
    client, _ = start(["good", "bad"], ["bad"], kind)
    until(lambda: all(model["error"] or model["digest"] for model in client.get("/models").json()["models"]))
    good, bad = sorted(client.get("/models").json()["models"], key=lambda model: model["name"] == "bad")
    assert good["error"] is None and bad["digest"] is None
    assert bad["error"] == refused(client, "bad", "/segment?model=bad")
    assert client.post("/segment", content=PNG).status_code == 200


@pytest.mark.parametrize("kind", KINDS)
def test_at_a_reload_the_old_one_serves_on(start, tmp_path: Path, kind: str) -> None:
    client, _ = start(["m"], [], kind)
    before = client.post("/segment", content=PNG)
    KINDS[kind](tmp_path / "models" / "m.safetensors")
    refused(client, "m", "/models/m/reload")
    after = client.post("/segment", content=PNG)
    assert after.status_code == 200 and after.content == before.content
    assert after.headers["segment-digest"] == before.headers["segment-digest"]
    assert not Path("ran").exists()


def test_a_bad_one_is_read_once_and_again_when_it_has_changed(start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    monkeypatch.setattr(
        "service.inference.registry.read_checkpoint", lambda path, name: [read.append(path), read_checkpoint(path, name)][1]
    )
    client, _ = start(["good", "bad"], ["bad"], "one bit")
    path = tmp_path / "models" / "bad.safetensors"
    until(lambda: client.get("/models").json()["models"][0]["error"])
    for _ in range(5):
        refused(client, "bad", "/segment?model=bad")
    assert read.count(path) == 1
    shutil.copy(tmp_path / "models" / "good.safetensors", path)
    assert client.post("/segment?model=bad", content=PNG).status_code == 200
    assert read.count(path) == 2


def test_one_that_an_artefact_makes_usable_is_served_once_it_is_there(
    start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, _ = start(["good", "other"], [], "")
    until(lambda: all(model["digest"] for model in client.get("/models").json()["models"]))
    with monkeypatch.context() as without_torch:
        without_torch.setattr("core.backends.find_spec", lambda name: None)
        assert "there is no artefact beside it" in refused(client, "other", "/segment?model=other")
    export_fp32(read_checkpoint(tmp_path / "models" / "other.safetensors"), None)
    reply = client.post("/segment?model=other", content=PNG)
    assert (reply.status_code, reply.headers["segment-backend"]) == (200, "openvino-fp32")


def test_all_bad_ones_are_listed_and_the_good_ones_after_them(start) -> None:
    client, _ = start(["first", "bad", "good", "worse"], ["bad", "worse"], "one bit")
    until(lambda: all(model["error"] or model["digest"] for model in client.get("/models").json()["models"]))
    told = {model["name"]: model["error"] for model in client.get("/models").json()["models"]}
    assert told["bad"] and told["worse"] and not told["good"] and not told["first"]


def test_one_that_was_away_is_read_when_it_is_back(start, tmp_path: Path) -> None:
    client, _ = start(["good", "bad"], [], "")
    path = tmp_path / "models" / "bad.safetensors"
    path.rename(tmp_path / "away")
    refused(client, "bad", "/segment?model=bad")
    (tmp_path / "away").rename(path)
    assert client.post("/segment?model=bad", content=PNG).status_code == 200
