"""The plain service with BentoML: bentoml serve tests.benchmarks.servers.bentoml_:Service --port PORT"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import bentoml
from bentoml.validators import ContentType
from PIL.Image import Image

from tests.benchmarks.servers.plain import Plain


@bentoml.service(workers=1, traffic={"timeout": 120})
class Service:
    def __init__(self) -> None:
        self.plain = Plain()

    @bentoml.api(route="/segment")
    def segment(self, file: Image, ctx: bentoml.Context) -> Annotated[Path, ContentType("image/png")]:
        path = Path(ctx.temp_dir, "mask.png")
        path.write_bytes(self.plain(file))
        return path
