"""Naive inference behind BentoML: bentoml serve tests.benchmarks.servers.bentoml_server:Service --port PORT"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import bentoml
from bentoml.validators import ContentType
from PIL.Image import Image

from tests.benchmarks.servers.naive_inference import NaiveInference


@bentoml.service(workers=1, traffic={"timeout": 120})
class Service:
    def __init__(self) -> None:
        self.infer = NaiveInference()

    @bentoml.api(route="/segment")
    def segment(self, file: Image, ctx: bentoml.Context) -> Annotated[Path, ContentType("image/png")]:
        path = Path(ctx.temp_dir, "mask.png")
        path.write_bytes(self.infer(file))
        return path
