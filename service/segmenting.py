"""A photograph through the stages of `/segment`: decode, queue, forward, label, encode, each off the event loop."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, TypeVar

import numpy as np

from core import masks
from core.errors import ImageError
from core.images import RGB, decode_photo
from core.masks import Labels
from core.segmenter import Segmenter
from service.models import Loaded
from service.problems import Problem
from service.settings import Settings
from service.worker import Worker

Result = TypeVar("Result")
Output = Literal["mask", "labels", "overlay", "json"]
Format = Literal["jpeg", "png"]


class Timing:
    """Milliseconds of each stage, for the Server-Timing header."""

    def __init__(self) -> None:
        self.stages: dict[str, float] = {}

    def add(self, stage: str, seconds: float) -> None:
        """Note what a stage took."""
        self.stages[stage] = self.stages.get(stage, 0.0) + seconds * 1000

    def header(self) -> str:
        """The header's value (W3C Server Timing)."""
        return ", ".join(f"{stage};dur={milliseconds:.2f}" for stage, milliseconds in self.stages.items())


class Segmenting:
    """Threads that decode and encode, and the worker that runs the networks."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.pool = ThreadPoolExecutor(settings.threads, thread_name_prefix="pictures")
        self.worker = Worker()

    def close(self) -> None:
        """Finish what is under way."""
        self.pool.shutdown()
        self.worker.close()

    async def in_thread(self, call: Callable[[], Result]) -> Result:
        """Run a call in the picture threads."""
        return await asyncio.get_running_loop().run_in_executor(self.pool, call)

    async def segment(self, data: bytes, model: Loaded, output: Output, style: Format) -> tuple[bytes, str, Timing]:
        """An encoded photograph to the encoded reply, its media type and what each stage took. Raises Problem."""
        timing, segmenter = Timing(), model.segmenter

        def decode() -> tuple[RGB, np.ndarray]:
            began = time.perf_counter()
            try:
                rgb = decode_photo(data, self.settings.max_pixels, self.settings.max_side)
            except ImageError as error:
                raise Problem(error.code, str(error)) from None
            batch = segmenter.prepare(rgb)[None]
            timing.add("decode", time.perf_counter() - began)
            return rgb, batch

        def encode(rgb: RGB, logits: np.ndarray) -> tuple[bytes, str]:
            began = time.perf_counter()
            labels = segmenter.label(logits, rgb.shape[:2])
            labelled = time.perf_counter()
            reply = encode_labels(labels, rgb, segmenter, output, style)
            timing.add("label", labelled - began)
            timing.add("encode", time.perf_counter() - labelled)
            return reply

        rgb, batch = await self.in_thread(decode)
        began = time.perf_counter()
        logits, waited = await asyncio.wrap_future(self.worker.submit(lambda: segmenter.forward(batch)[0]))
        timing.add("queue", waited)
        timing.add("forward", time.perf_counter() - began - waited)
        content, media_type = await self.in_thread(lambda: encode(rgb, logits))
        return content, media_type, timing


def encode_labels(labels: Labels, rgb: RGB, segmenter: Segmenter, output: Output, style: Format) -> tuple[bytes, str]:
    """A label map as the reply that was asked for, and its media type."""
    space = segmenter.labels
    if output == "mask":
        return masks.indexed_png(labels, space), "image/png"
    if output == "labels":
        return masks.grey_png(labels), "image/png"
    if output == "json":
        return json.dumps(masks.description(labels, space), separators=(",", ":")).encode(), "application/json"
    mixed = masks.overlay(rgb, labels, space)
    return (masks.photo_jpeg(mixed), "image/jpeg") if style == "jpeg" else (masks.photo_png(mixed), "image/png")
