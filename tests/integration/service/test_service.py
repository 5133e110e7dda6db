"""Models by name, readiness, and the documents around the endpoints."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import core.checkpoints.checkpoint
from core.checkpoints.checkpoint import read_checkpoint, shipped
from core.errors import InputError
from service.inference.registry import Models, find_models
from service.settings import load_settings
from tests.conftest import make_checkpoint
from tests.support.sample_images import encoded

PNG = encoded()


def best(folder: Path) -> Path:
    return make_checkpoint(folder / "checkpoints" / "best.safetensors")


def test_a_run_folder_is_a_model_and_a_folder_of_runs_many(tmp_path: Path) -> None:
    paths = {name: best(tmp_path / "runs" / name) for name in ("b", "a")}
    lone = make_checkpoint(tmp_path / "runs" / "lone.safetensors")
    assert find_models([tmp_path / "runs" / "a"]) == {"a": paths["a"]}
    assert find_models([tmp_path / "runs"]) == {"lone": lone, **paths}
    assert find_models([lone]) == {"lone": lone}


def test_a_name_met_twice_tells_both_paths(tmp_path: Path) -> None:
    best(tmp_path / "one" / "a")
    make_checkpoint(tmp_path / "two" / "a.safetensors")
    with pytest.raises(InputError, match=r"'a' is met twice: .*one/a.*two/a\.safetensors"):
        find_models([tmp_path / "one", tmp_path / "two"])


def test_where_nothing_is_found_those_that_ship_are_served(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):  # a conversion for OpenVINO leaves the handlers of others at ERROR
        assert find_models([tmp_path]) == shipped() != {}
    assert str(tmp_path) in caplog.text and "come with the project: ddunet" in caplog.text


def test_a_place_that_holds_none_is_told_beside_others(
    tmp_path: Path, checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert list(find_models([tmp_path / "run", checkpoint])) == ["random"]
    assert f"no checkpoint in {tmp_path / 'run'}" in caplog.text


def test_nothing_to_serve_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core.checkpoints.checkpoint, "PRETRAINED", tmp_path)  # a build without them
    with pytest.raises(InputError, match="nothing to serve"):
        find_models([tmp_path])


def test_an_unknown_default_lists_what_was_found(serve) -> None:
    with pytest.raises(InputError, match=r"SEGMENT_MODEL: no model 'x'; found: random"):
        serve(model="x")


def test_models_tell_classes_colours_scores_and_digest(serve, checkpoint: Path) -> None:
    told = serve().get("/models").json()
    (model,) = told["models"]
    assert told["default"] == model["name"] == "random"
    assert (model["architecture"], model["loaded"], model["error"]) == ("ddunet", True, None)
    assert model["digest"] == read_checkpoint(checkpoint).digest
    assert model["labels"]["classes"][10] == {"name": "sky", "colour": [70, 130, 180]}


def test_cpu_and_gpu_together_answer_by_torch(checkpoint: Path) -> None:
    settings = load_settings(checkpoints=[checkpoint], device="cpu,cuda:0")
    assert Models(settings).backend == "torch"
    assert Models(load_settings(checkpoints=[checkpoint], device="cpu,cpu")).backend == "auto"


def test_reload_serves_what_the_file_holds_now(serve, tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "m.safetensors", seed=1)
    client = serve(checkpoints=[path])
    old = client.get("/models").json()["models"][0]["digest"]
    make_checkpoint(path, seed=2)
    assert client.post("/segment", content=PNG).headers["segment-digest"] == old
    told = client.post("/models/m/reload").json()
    assert told["digest"] != old and told["error"] is None
    assert client.post("/segment", content=PNG).headers["segment-digest"] == told["digest"]


def test_where_the_new_file_can_t_be_used_the_old_one_keeps_serving(serve, tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "m.safetensors", seed=1)
    client = serve(checkpoints=[path])
    old = client.get("/models").json()["models"][0]["digest"]
    path.write_bytes(path.read_bytes()[:-1])
    refused = client.post("/models/m/reload")
    assert (refused.status_code, refused.json()["code"]) == (503, "model_unusable")
    reply = client.post("/segment", content=PNG)
    assert reply.status_code == 200 and reply.headers["segment-digest"] == old
    assert "m.safetensors" in client.get("/models").json()["models"][0]["error"]


def test_an_unknown_model_can_t_be_reloaded(serve) -> None:
    for name in ("nobody", "..%2fx", "%2e%2e"):
        reply = serve().post(f"/models/{name}/reload")
        assert reply.status_code == 404 and reply.json()["code"] in ("unknown_model", "not_found")


def test_no_request_is_lost_while_a_model_is_reloaded(serve, tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "m.safetensors", seed=1)
    client = serve(checkpoints=[path])
    with ThreadPoolExecutor(4) as pool:
        replies = [pool.submit(client.post, "/segment", content=PNG) for _ in range(60)]
        digests = set()
        for seed in range(2, 6):
            make_checkpoint(path, seed=seed)
            digests.add(client.post("/models/m/reload").json()["digest"])
        assert {reply.result().status_code for reply in replies} == {200}
    assert len(digests) == 4


def test_alive_and_ready(serve) -> None:
    client = serve()
    assert client.get("/healthz").json() == {"status": "alive"}
    assert client.get("/readyz").json() == {"status": "ready"}


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz"])
def test_whoever_looks_whether_it_is_up_may_ask_for_the_head(serve, path: str) -> None:
    reply = serve().head(path)
    assert reply.status_code == 200 and not reply.content


def test_a_slash_too_many_leads_nowhere(serve) -> None:
    """Behind a proxy the redirect would name another scheme, and the picture be sent again there."""
    reply = serve().post("/segment/", content=b"x", follow_redirects=False)
    assert (reply.status_code, reply.json()["code"]) == (404, "not_found")


def test_a_model_whose_file_has_gone_bad_is_the_last_to_be_let_go(serve, tmp_path: Path) -> None:
    for seed, name in enumerate("abc"):
        make_checkpoint(tmp_path / "three" / f"{name}.safetensors", seed=seed)
    client = serve(checkpoints=[tmp_path / "three"], max_loaded=2)
    (tmp_path / "three" / "a.safetensors").write_bytes(b"")
    assert client.post("/models/a/reload").status_code == 503
    assert [client.post(f"/segment?model={name}", content=encoded()).status_code for name in "bca"] == [200, 200, 200]


def test_not_ready_before_the_model_has_answered(serve, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    gate = threading.Event()
    original = __import__("service.inference.registry", fromlist=["Models"]).Models._load
    monkeypatch.setattr("service.inference.registry.Models._load", lambda self, model: (gate.wait(), original(self, model))[1])
    client = serve(ready=False)
    reply = client.get("/readyz")
    assert (reply.status_code, reply.json()["code"], reply.headers["retry-after"]) == (503, "not_ready", "1")
    assert client.get("/healthz").status_code == 200
    gate.set()


def test_the_documentation_needs_nothing_from_outside(serve) -> None:
    client = serve()
    page = client.get("/docs").text
    assert "http://" not in page and "https://" not in page
    for asset in ("swagger-ui-bundle.js", "swagger-ui.css"):
        assert asset in page
        assert client.get(f"/static-offline-docs/{asset}").status_code == 200


def test_openapi_names_both_kinds_of_body(serve) -> None:
    operation = serve().get("/openapi.json").json()["paths"]["/segment"]["post"]
    assert set(operation["requestBody"]["content"]) == {"multipart/form-data", "image/*", "application/octet-stream"}


def test_openapi_tells_of_keys_where_they_are_asked_for(serve) -> None:
    keys = {"Authorization": "Bearer " + "k" * 16}
    for settings, asked in (({}, False), ({"api_keys": "operate:" + "k" * 16}, True)):
        document = serve(**settings).get("/openapi.json", headers=keys).json()
        assert ("securitySchemes" in document["components"]) == asked
        for path, method in (("/segment", "post"), ("/evaluate", "get"), ("/metrics", "get")):
            operation = document["paths"][path][method]
            assert ("security" in operation) == ("401" in operation["responses"]) == asked
        assert "security" not in document["paths"]["/healthz"]["get"]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("SEGMENT_PORT", "http", "SEGMENT_PORT"),
        ("SEGMENT_MAX_LOADED", "0", "SEGMENT_MAX_LOADED"),
        ("SEGMENT_HOST", "0.0.0.0", "SEGMENT_ALLOW_ANONYMOUS=1"),
        ("SEGMENT_MAX_BYTES", "300000000", "SEGMENT_QUEUE_BYTES"),
    ],
)
def test_a_wrong_setting_is_named_in_one_line(monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=message) as error:
        load_settings()
    assert "\n" not in str(error.value)


def test_names_with_ports_and_origins_with_a_slash_are_meant_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGMENT_ALLOWED_HOSTS", "localhost:8000, a.b,[::1]:80,[::1]")
    monkeypatch.setenv("SEGMENT_CORS_ORIGINS", "https://a.b/,https://a.b:8443")
    settings = load_settings()
    assert settings.allowed_hosts == ["localhost", "a.b", "[::1]", "[::1]"]
    assert settings.cors_origins == ["https://a.b", "https://a.b:8443"]


def test_checkpoints_are_separated_by_colons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGMENT_CHECKPOINTS", "/a:/b/c")
    assert load_settings().checkpoints == [Path("/a"), Path("/b/c")]
