"""Errors: limits that were set, what is not echoed, unusable models, faults of the service itself."""

from __future__ import annotations

import io
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from service.api.problems import CODES
from service.api.request_body import PARAMETERS
from tests.conftest import make_checkpoint


def png(width: int = 40, height: int = 30) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def test_a_parameter_that_comes_in_the_form_is_told_and_not_passed_over(serve) -> None:
    reply = serve().post("/segment", files={"file": png()}, data={"model": "unet", "output": "json", "comment": "x"})
    assert (reply.status_code, reply.json()["code"]) == (422, "invalid_parameter")
    assert reply.json()["detail"].startswith("model, output: came in the form; it belongs in the address")
    assert serve().post("/segment", files={"file": png()}, data={"comment": "x"}).status_code == 200
    told = serve().get("/openapi.json").json()["paths"]["/segment"]["post"]["parameters"]
    assert {each["name"] for each in told} == PARAMETERS


def test_a_body_over_the_limit_is_noticed_as_it_arrives(serve) -> None:
    chunks = (bytes(10_000) for _ in range(100))
    assert serve(max_bytes=50_000).post("/segment", content=chunks).json()["code"] == "too_large"


def test_a_picture_over_the_limit_is_told(serve) -> None:
    assert serve(max_pixels=20_000).post("/segment", content=png(300, 100)).json()["code"] == "too_large"


def test_an_error_does_not_echo_the_input(serve) -> None:
    client = serve()
    for query in ("model=evil%3Cscript%3E", "output=evil%3Cscript%3E"):
        assert "evil" not in client.post(f"/segment?{query}", content=png()).text


@pytest.mark.parametrize(
    ("method", "path", "code"), [("GET", "/nothing", "not_found"), ("GET", "/segment", "method_not_allowed")]
)
def test_unknown_paths_and_methods_are_problems_too(serve, method: str, path: str, code: str) -> None:
    reply = serve().request(method, path)
    assert (reply.json()["code"], reply.status_code) == (code, CODES[code])
    assert "/docs" in reply.json()["detail"]


def test_a_model_that_can_t_be_loaded_is_listed_and_answers_503(serve, tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "models" / "good.safetensors")
    (tmp_path / "models" / "worse.safetensors").write_bytes(b"nothing")
    client = serve(checkpoints=[tmp_path / "models"])
    assert client.post("/segment?model=worse", content=png()).json()["code"] == "model_unusable"
    listed = {m["name"]: m for m in client.get("/models").json()["models"]}
    assert listed["good"]["error"] is None
    assert "worse.safetensors: not a whole safetensors file" in listed["worse"]["error"]
    assert client.post("/segment", content=png()).status_code == 200


def test_a_fault_of_the_service_is_a_problem_with_the_request_s_id(serve, monkeypatch: pytest.MonkeyPatch) -> None:
    client = serve()
    monkeypatch.setattr("service.inference.pipeline.masks.indexed_png", lambda *_: 1 / 0)
    reply = client.post("/segment", content=png())
    assert (reply.status_code, reply.json()["code"]) == (500, "internal_error")
    assert reply.json()["request_id"] == reply.headers["x-request-id"]


def test_a_model_s_name_may_be_of_any_letters(serve, tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "дорога" / "checkpoints" / "best.safetensors")
    reply = serve(checkpoints=[tmp_path / "дорога"]).post("/segment?model=дорога", content=png())
    assert reply.status_code == 200 and unquote(reply.headers["segment-model"]) == "дорога"
