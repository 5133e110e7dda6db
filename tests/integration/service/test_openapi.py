"""The service against its own description: Schemathesis makes requests of it, and checks each reply."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode

from service.app import create_app
from service.settings import load_settings
from tests.integration.service.conftest import listening
from tests.support.image_fuzzer import GOOD

EXAMPLES = int(os.environ.get("OPENAPI_EXAMPLES", "20"))  # for each operation
# Only valid images: the schema does not describe the errors of damaged ones, which test_bad_requests.py covers.
UNHEALTHY = list(HealthCheck)
PICTURES = st.sampled_from(GOOD)
schemathesis.openapi.format("binary", PICTURES)
for kind in ("image/*", "application/octet-stream"):
    schemathesis.openapi.media_type(kind, PICTURES)


@pytest.fixture(scope="module")
def described(checkpoint: Path, scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    app = create_app(load_settings(checkpoints=[checkpoint], data=scenes, state=tmp_path_factory.mktemp("state")))
    with listening(app) as port:
        yield schemathesis.openapi.from_url(f"http://127.0.0.1:{port}/openapi.json")


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_replies_are_as_described(described: Any, mode: GenerationMode) -> None:
    tried = 0
    for operation in (found.ok() for found in described.get_all_operations()):

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(
            max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
        )
        def replies(case: Any) -> None:
            nonlocal tried
            tried += 1
            case.call_and_validate(timeout=60)

        with suppress(Unsatisfiable):  # where nothing can be wrong with a request
            replies()
    print(f"{tried} requests of {mode.value} data")  # an operation without parameters has one
    assert tried >= 2 * EXAMPLES
