"""The OpenAPI document, and the service against it: Schemathesis generates requests and validates each response."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode

from service.api.multipart import MAX_PARTS
from service.app import create_app
from service.settings import load_settings
from tests.support.image_fuzzer import SEED_IMAGES
from tests.support.live_server import Serve, live_server

MAX_EXAMPLES = int(os.environ.get("OPENAPI_EXAMPLES", "20"))  # per operation
# Only valid images: the schema does not describe the errors of damaged ones, which test_bad_requests.py covers.
IMAGES = st.sampled_from(SEED_IMAGES)
schemathesis.openapi.format("binary", IMAGES)
for media_type in ("image/*", "application/octet-stream"):
    schemathesis.openapi.media_type(media_type, IMAGES)
KEY = "k" * 16


@schemathesis.hook
def before_load_schema(context: Any, raw_schema: dict[str, Any]) -> None:
    """Make Schemathesis send the images of a form as files: it does so only for properties of this media type."""
    form = raw_schema["paths"]["/segment"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    form["properties"]["file"]["contentMediaType"] = "application/octet-stream"


def count_parts(body: Any) -> int:
    """Return the number of parts of a form; fields that the schema does not describe may be lists, too."""
    return sum(len(value) if isinstance(value, list) else 1 for value in body.values()) if isinstance(body, dict) else 0


@pytest.fixture(scope="module")
def schema(checkpoint: Path, scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    app = create_app(load_settings(checkpoints=[checkpoint], data=scenes, state=tmp_path_factory.mktemp("state")))
    with live_server(app) as port:
        yield schemathesis.openapi.from_url(f"http://127.0.0.1:{port}/openapi.json")


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_responses_conform_to_schema(schema: Any, mode: GenerationMode) -> None:
    requests = 0
    for operation in (result.ok() for result in schema.get_all_operations()):

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(
            max_examples=MAX_EXAMPLES, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
        )
        def validate(case: Any) -> None:
            nonlocal requests
            assume(count_parts(case.body) <= MAX_PARTS)
            requests += 1
            case.call_and_validate(timeout=60)

        with suppress(Unsatisfiable):  # No invalid request exists for an operation without parameters.
            validate()
    print(f"{requests} requests with {mode.value} data")
    assert requests >= 2 * MAX_EXAMPLES  # An operation without parameters counts only once.


def test_document_describes_model_list(serve: Serve) -> None:
    document = serve().get("/openapi.json").json()
    reference = document["paths"]["/models"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert reference == {"$ref": "#/components/schemas/ModelList"}
    assert {"name", "digest", "scores", "error"} <= document["components"]["schemas"]["ModelInfo"]["properties"].keys()


def test_document_lists_form_and_raw_bodies(serve: Serve) -> None:
    operation = serve().get("/openapi.json").json()["paths"]["/segment"]["post"]
    assert set(operation["requestBody"]["content"]) == {"multipart/form-data", "image/*", "application/octet-stream"}


@pytest.mark.parametrize("protected", [False, True])
def test_document_describes_authentication_only_if_keys_are_set(serve: Serve, protected: bool) -> None:
    client = serve(**({"api_keys": f"admin:{KEY}"} if protected else {}))
    document = client.get("/openapi.json", headers={"Authorization": f"Bearer {KEY}"}).json()
    assert ("securitySchemes" in document["components"]) == protected
    for path, method in (("/segment", "post"), ("/evaluate", "get"), ("/metrics", "get")):
        operation = document["paths"][path][method]
        assert ("security" in operation) == ("401" in operation["responses"]) == protected
    assert "security" not in document["paths"]["/healthz"]["get"]
