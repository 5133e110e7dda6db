"""Error responses: limits, invalid parameters, unusable models and internal errors; they never echo the input."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest

from service.api.problems import STATUS_BY_CODE
from service.api.schemas import SegmentParameters
from tests.support.checkpoints import make_checkpoint
from tests.support.live_server import Serve
from tests.support.sample_images import encode_image

PNG = encode_image()


def test_parameter_as_form_field_is_rejected(serve: Serve) -> None:
    client = serve()
    response = client.post("/segment", files={"file": PNG}, data={"model": "unet", "output": "json", "comment": "x"})
    assert (response.status_code, response.json()["code"]) == (422, "invalid_parameter")
    assert response.json()["detail"].startswith("model, output: sent as a form field; send it in the query string")
    assert client.post("/segment", files={"file": PNG}, data={"comment": "x"}).status_code == 200


def test_all_parameters_are_documented(serve: Serve) -> None:
    parameters = serve().get("/openapi.json").json()["paths"]["/segment"]["post"]["parameters"]
    assert {parameter["name"] for parameter in parameters} == SegmentParameters.model_fields.keys()


@pytest.mark.parametrize(
    ("query", "suggestion"),
    [("outptu=json", "output"), ("fromat=png", "format"), ("Model=x", "model"), ("flip=true&resolutoin=native", "resolution")],
)
def test_unknown_query_parameter_error_suggests_similar_name(serve: Serve, query: str, suggestion: str) -> None:
    response = serve().post(f"/segment?{query}", content=PNG)
    assert (response.status_code, response.json()["code"]) == (422, "invalid_parameter")
    assert f"did you mean {suggestion}?" in response.json()["detail"]
    assert not {"outptu", "opacity", "Model", "resolutoin"} & set(response.json()["detail"].replace("?", " ").split())


def test_streamed_body_over_limit_is_rejected(serve: Serve) -> None:
    chunks = (bytes(10_000) for _ in range(100))
    assert serve(max_bytes=50_000).post("/segment", content=chunks).json()["code"] == "too_large"


def test_image_over_pixel_limit_is_rejected(serve: Serve) -> None:
    image = encode_image(image=np.zeros((100, 300, 3), np.uint8))
    assert serve(max_pixels=20_000).post("/segment", content=image).json()["code"] == "too_large"


def test_error_does_not_echo_input(serve: Serve) -> None:
    client = serve()
    for query in ("model=evil%3Cscript%3E", "output=evil%3Cscript%3E"):
        response = client.post(f"/segment?{query}", content=PNG)
        assert response.status_code in (404, 422) and "evil" not in response.text


@pytest.mark.parametrize(
    ("method", "path", "code"), [("GET", "/nothing", "not_found"), ("GET", "/segment", "method_not_allowed")]
)
def test_unknown_path_or_method_error_refers_to_docs(serve: Serve, method: str, path: str, code: str) -> None:
    response = serve().request(method, path)
    assert (response.json()["code"], response.status_code) == (code, STATUS_BY_CODE[code])
    assert "/docs" in response.json()["detail"]


def test_broken_model_is_listed_and_returns_503(serve: Serve, tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "models" / "good.safetensors")
    (tmp_path / "models" / "worse.safetensors").write_bytes(b"nothing")
    client = serve(checkpoints=[tmp_path / "models"])
    assert client.post("/segment?model=worse", content=PNG).json()["code"] == "model_unavailable"
    models = {model["name"]: model for model in client.get("/models").json()["models"]}
    assert models["good"]["error"] is None
    assert "worse.safetensors: not a complete safetensors file" in models["worse"]["error"]
    assert client.post("/segment", content=PNG).status_code == 200


def test_internal_error_has_request_id(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    client = serve()
    monkeypatch.setattr("service.inference.pipeline.encode.encode_indexed_png", lambda *_: 1 / 0)
    response = client.post("/segment", content=PNG)
    assert (response.status_code, response.json()["code"]) == (500, "internal_error")
    assert response.json()["request_id"] == response.headers["x-request-id"]


def test_model_name_may_contain_any_letters(serve: Serve, tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "дорога" / "checkpoints" / "best.safetensors")
    response = serve(checkpoints=[tmp_path / "дорога"]).post("/segment?model=дорога", content=PNG)
    assert response.status_code == 200 and unquote(response.headers["segment-model"]) == "дорога"
