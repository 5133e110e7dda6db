"""Discovery of checkpoints, `GET /models`, and `POST /models/NAME/reload`."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import core.checkpoints.checkpoint
from core.checkpoints.checkpoint import Checkpoint, CheckpointMetadata, bundled_checkpoints, read_checkpoint, read_metadata
from core.errors import InputError
from service.inference.discovery import discover_models
from service.inference.registry import ModelRegistry
from service.settings import load_settings
from tests.support.checkpoints import make_checkpoint, make_checkpoints
from tests.support.live_server import Serve
from tests.support.sample_images import encode_image
from tests.support.wait import wait_until

PNG = encode_image()


def make_run(run_dir: Path) -> Path:
    """Write the best checkpoint of a run directory, and return its path."""
    return make_checkpoint(run_dir / "checkpoints" / "best.safetensors")


def test_discovery_accepts_names_of_bundled_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert discover_models([Path("unet"), Path("ddunet")]) == {name: bundled_checkpoints()[name] for name in ("unet", "ddunet")}


def test_discovery_finds_run_directories_and_checkpoint_files(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    best = {name: make_run(runs / name) for name in ("b", "a")}
    single = make_checkpoint(runs / "single.safetensors")
    assert discover_models([runs / "a"]) == {"a": best["a"]}
    assert discover_models([runs]) == {"single": single, **best}
    assert discover_models([single]) == {"single": single}


def test_duplicate_model_name_reports_both_paths(tmp_path: Path) -> None:
    make_run(tmp_path / "one" / "a")
    make_checkpoint(tmp_path / "two" / "a.safetensors")
    with pytest.raises(InputError, match=r"two models have the name 'a': .*one/a.*two/a\.safetensors"):
        discover_models([tmp_path / "one", tmp_path / "two"])


def test_directory_without_checkpoints_serves_bundled_ones(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert discover_models([tmp_path]) == bundled_checkpoints() != {}
    assert str(tmp_path) in caplog.text and "serving the bundled ones: ddunet" in caplog.text


def test_directory_without_checkpoints_is_reported_next_to_others(
    tmp_path: Path, checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert list(discover_models([tmp_path / "run", checkpoint])) == ["random"]
    assert f"no checkpoint in {tmp_path / 'run'}" in caplog.text


def test_no_checkpoint_at_all_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core.checkpoints.checkpoint, "PRETRAINED", tmp_path)  # an installation without bundled checkpoints
    with pytest.raises(InputError, match="no checkpoint in"):
        discover_models([tmp_path])


def test_unknown_default_model_lists_available_ones(serve: Serve) -> None:
    with pytest.raises(InputError, match=r"SEGMENT_MODEL: there is no model 'x'; expected one of random"):
        serve(model="x")


def default_model(directory: Path, **settings: object) -> str:
    """Return the name of the model that is the default if all checkpoints of a directory are served."""
    return ModelRegistry(load_settings(checkpoints=[directory], **settings)).default


def test_model_with_highest_miou_is_default(tmp_path: Path) -> None:
    for name, miou in (("a", 0.4), ("b", 0.6), ("c", 0.5)):
        make_checkpoint(tmp_path / f"{name}.safetensors", miou=miou, scored_on="x val, 5 images")
    assert default_model(tmp_path) == "b"
    assert default_model(tmp_path, model="a") == "a"


def test_scores_on_other_data_are_not_compared(tmp_path: Path) -> None:
    for name, miou, scored_on in (("a", 0.4, "x val, 5 images"), ("b", 0.9, "y val, 5 images"), ("c", 0.5, "x val, 5 images")):
        make_checkpoint(tmp_path / f"{name}.safetensors", miou=miou, scored_on=scored_on)
    assert default_model(tmp_path) == "c"


def test_first_model_without_score_is_default(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "a.safetensors")
    make_checkpoint(tmp_path / "b.safetensors", miou=0.9, scored_on="x val, 5 images")
    assert default_model(tmp_path) == "a"


def test_first_model_that_cannot_be_read_stays_default(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"nothing")
    make_checkpoint(tmp_path / "b.safetensors", miou=0.9, scored_on="x val, 5 images")
    assert default_model(tmp_path) == "a"


def test_unreadable_model_does_not_prevent_choice_of_default(tmp_path: Path) -> None:
    for name, miou in (("a", 0.4), ("c", 0.6)):
        make_checkpoint(tmp_path / f"{name}.safetensors", miou=miou, scored_on="x val, 5 images")
    (tmp_path / "b.safetensors").write_bytes(b"nothing")
    assert default_model(tmp_path) == "c"


def test_best_bundled_model_on_data_of_first_one_is_default(tmp_path: Path) -> None:
    assert default_model(tmp_path) == "unet-cityscapes"


def test_hung_drive_does_not_delay_choice_of_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, miou in (("a", 0.4), ("b", 0.5), ("c", 0.6)):
        make_checkpoint(tmp_path / f"{name}.safetensors", miou=miou, scored_on="x val, 5 images")
    drive_responds = threading.Event()

    def read(path: Path) -> CheckpointMetadata:
        if path.stem == "c":
            drive_responds.wait(20)
        return read_metadata(path)

    monkeypatch.setattr("service.inference.registry.read_metadata", read)
    monkeypatch.setattr("service.inference.registry.SCORES_TIMEOUT_S", 0.5)
    try:
        assert default_model(tmp_path) == "b" and not drive_responds.is_set()
        assert "the scores of 1 models can't be read in time" in caplog.text
    finally:
        drive_responds.set()


def test_models_lists_classes_digest_and_state(serve: Serve, checkpoint: Path) -> None:
    response = serve().get("/models").json()
    (model,) = response["models"]
    assert response["default"] == model["name"] == "random"
    assert (model["architecture"], model["loaded"], model["error"]) == ("ddunet", True, None)
    assert model["digest"] == read_checkpoint(checkpoint).digest
    assert model["labels"]["classes"][10] == {"name": "sky", "color": [70, 130, 180]}


def test_mixed_cpu_and_gpu_devices_use_torch(checkpoint: Path) -> None:
    assert ModelRegistry(load_settings(checkpoints=[checkpoint], device="cpu,cuda:0")).backend == "torch"
    assert ModelRegistry(load_settings(checkpoints=[checkpoint], device="cpu,cpu")).backend == "auto"


def test_reload_serves_new_weights(serve: Serve, tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "m.safetensors", seed=1)
    client = serve(checkpoints=[path])
    old_digest = client.get("/models").json()["models"][0]["digest"]
    make_checkpoint(path, seed=2)
    assert client.post("/segment", content=PNG).headers["segment-digest"] == old_digest
    model = client.post("/models/m/reload").json()
    assert model["digest"] != old_digest and model["error"] is None
    assert client.post("/segment", content=PNG).headers["segment-digest"] == model["digest"]


def test_reload_is_not_undone_by_reading_of_all_metadata(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = make_checkpoints(tmp_path, "d", "e", "f")
    has_read, may_return = threading.Event(), threading.Event()

    def read(path: Path, name: str) -> Checkpoint:
        checkpoint = read_checkpoint(path, name)
        if name == "e" and not has_read.is_set():
            has_read.set()
            may_return.wait(20)
        return checkpoint

    monkeypatch.setattr("service.inference.registry.read_checkpoint", read)
    client = serve(checkpoints=[directory])
    assert has_read.wait(20)
    make_checkpoint(directory / "e.safetensors", seed=9)
    loader_queue = client.app.state.registry._loader._work_queue
    with ThreadPoolExecutor(1) as pool:
        reload = pool.submit(client.post, "/models/e/reload")
        wait_until(lambda: reload.done() or loader_queue.qsize())
        may_return.set()
        digest = reload.result().json()["digest"]
    wait_until(lambda: client.get("/models").json()["models"][2]["digest"])  # f is read after e.
    assert client.get("/models").json()["models"][1]["digest"] == digest


def test_reading_of_metadata_does_not_replace_that_of_activated_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_checkpoint(tmp_path / "a.safetensors")
    registry = ModelRegistry(load_settings(checkpoints=[path]))
    model = registry._load(registry.models["a"])
    make_checkpoint(path, seed=9)

    def read(path: Path, name: str) -> Checkpoint:
        registry.activate(model)
        return read_checkpoint(path, name)

    monkeypatch.setattr("service.inference.registry.read_checkpoint", read)
    registry._read_metadata(registry.models["a"])
    assert registry.models["a"].digest == model.digest


def test_failed_reload_keeps_old_weights(serve: Serve, tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "m.safetensors", seed=1)
    client = serve(checkpoints=[path])
    old_digest = client.get("/models").json()["models"][0]["digest"]
    path.write_bytes(path.read_bytes()[:-1])
    reload = client.post("/models/m/reload")
    assert (reload.status_code, reload.json()["code"]) == (503, "model_unavailable")
    response = client.post("/segment", content=PNG)
    assert response.status_code == 200 and response.headers["segment-digest"] == old_digest
    assert "m.safetensors" in client.get("/models").json()["models"][0]["error"]


@pytest.mark.parametrize("name", ["unknown", "..%2fx", "%2e%2e"])
def test_reload_of_unknown_model_returns_404(serve: Serve, name: str) -> None:
    response = serve().post(f"/models/{name}/reload")
    assert response.status_code == 404 and response.json()["code"] in ("unknown_model", "not_found")


def test_reload_loses_no_concurrent_request(serve: Serve, tmp_path: Path) -> None:
    """Four clients post images without a break; each reload waits until all have got responses with the previous weights."""
    path = make_checkpoint(tmp_path / "m.safetensors", seed=1)
    client = serve(checkpoints=[path])
    digests = [client.get("/models").json()["models"][0]["digest"]]
    stop = threading.Event()
    responses_by_client: list[list[tuple[int, str | None]]] = [[] for _ in range(4)]

    def post_until_stopped(responses: list[tuple[int, str | None]]) -> None:
        while not stop.is_set():
            response = client.post("/segment", content=PNG)
            responses.append((response.status_code, response.headers.get("segment-digest")))

    def wait_for_responses() -> None:
        """Wait until every client has received a response to a request that it sent after this call."""
        counts = [len(responses) + 2 for responses in responses_by_client]
        wait_until(lambda: all(len(r) >= count for r, count in zip(responses_by_client, counts, strict=True)), 60)

    with ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(post_until_stopped, responses) for responses in responses_by_client]
        try:
            wait_for_responses()
            for seed in range(2, 6):
                make_checkpoint(path, seed=seed)
                digests.append(client.post("/models/m/reload").json()["digest"])
                wait_for_responses()
        finally:
            stop.set()
        for task in clients:
            task.result()
    assert len(set(digests)) == 5
    for responses in responses_by_client:
        assert {status for status, _ in responses} == {200}
        assert list(dict.fromkeys(digest for _, digest in responses)) == digests  # All weights, in the order of the reloads.
        versions = [digests.index(digest) for _, digest in responses if digest]
        assert versions == sorted(versions)


def test_model_with_broken_file_is_evicted_last(serve: Serve, tmp_path: Path) -> None:
    directory = make_checkpoints(tmp_path / "models", "a", "b", "c")
    client = serve(checkpoints=[directory], max_loaded=2)
    (directory / "a.safetensors").write_bytes(b"")
    assert client.post("/models/a/reload").status_code == 503
    assert [client.post(f"/segment?model={name}", content=PNG).status_code for name in "bca"] == [200, 200, 200]
