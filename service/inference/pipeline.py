"""One image through the stages of `/segment`: decode, queue, forward, label, encode.

Every stage runs in a thread pool and receives only what it needs, so that waiting requests take little memory.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Executor, Future
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from core.backends.base import Logits
from core.errors import ImageError
from core.images import encode
from core.images.decode import RGB, decode_image, decode_reduced
from core.images.legend import add_legend
from core.images.resize import Size
from core.inference.options import DEFAULT_OPTIONS, InferenceOptions
from service.api.problems import ProblemError, deadline_exceeded
from service.inference.admission import RequestSlot
from service.inference.batching import InferenceFuture, WorkerPool
from service.inference.registry import LoadedModel
from service.inference.timing import Timing
from service.middleware.disconnect import wait_cancellable
from service.settings import Settings

OutputFormat = Literal["mask", "labels", "overlay", "confidence", "json"]
OverlayFormat = Literal["jpeg", "png"]
Pixels = npt.NDArray[Any]  # (H, W): a label map, uint8, or a confidence, float32
Result = TypeVar("Result")


@dataclass(frozen=True)
class OutputOptions:
    """What a request asks for."""

    output: OutputFormat = "mask"
    overlay_format: OverlayFormat = "jpeg"
    opacity: float = 0.5  # of an overlay
    legend: bool = False  # below an overlay
    inference: InferenceOptions = DEFAULT_OPTIONS

    @property
    def multi_pass(self) -> bool:
        """Whether the network runs several times."""
        return self.inference != DEFAULT_OPTIONS


class EncodedImage(NamedTuple):
    """The body of a response: an image or JSON."""

    content: bytes
    media_type: str


class Pools(NamedTuple):
    """The threads that run the stages."""

    decoders: Executor
    workers: WorkerPool
    encoders: Executor
    tilers: Executor  # for multi-pass requests


class SegmentationRequest:
    """The segmentation of one image; `timing` has the duration of each stage.

    Args:
        data: The encoded image, which is released after decoding.
        model: The model to use.
        options: What to return.
        slot: The admission of the request.
        settings: Limits on the image.
        pools: The threads that run the stages.
    """

    def __init__(
        self,
        data: bytes,
        model: LoadedModel,
        options: OutputOptions,
        slot: RequestSlot,
        settings: Settings,
        pools: Pools,
    ) -> None:
        self.model, self.options, self.slot, self.settings, self.pools = model, options, slot, settings, pools
        self.timing = Timing()
        self._data = data
        self._image: RGB | None = None  # kept for an overlay

    async def run(self) -> EncodedImage:
        """Run all stages and return the result.

        If it is cancelled, it begins no further stage, and ends when the running stage has ended, which holds memory until
        then.

        Raises:
            ProblemError: The image is not usable, or the inference did not begin before the deadline.
        """
        if self.options.multi_pass:
            return await self._run_stage(self.pools.tilers, self._segment_multi_pass, self.slot.deadline)
        x, size = await self._run_stage(self.pools.decoders, self._prepare, self.slot.deadline)
        logits = await self._forward(x)
        return await self._run_stage(self.pools.encoders, lambda: self._postprocess(logits, size))

    async def _run_stage(self, pool: Executor, stage: Callable[[], Result], deadline: float = math.inf) -> Result:
        """Run a stage in a pool; the time until a thread is free counts as `queue`."""
        submitted = time.perf_counter()

        def run() -> Result:
            self.timing.add("queue", time.perf_counter() - submitted)
            return stage()

        return await self._wait(pool.submit(run), deadline)

    async def _forward(self, x: RGB) -> Logits:
        """Return the logits of a network input."""
        submitted = time.perf_counter()
        future = self.pools.workers.submit(self.model.segmenters, x, deadline=self.slot.deadline)
        logits, queue_seconds = await self._wait(future)
        self.timing.add("queue", queue_seconds)
        self.timing.add("forward", time.perf_counter() - submitted - queue_seconds)
        return logits

    async def _wait(self, future: Future[Result], deadline: float = math.inf) -> Result:
        """Return the result of a stage.

        Raises ProblemError if it has not begun by the deadline. If the request is cancelled, cancel the stage, or wait for its
        end if it has begun.
        """
        ended = asyncio.wrap_future(future)
        timeout = deadline - time.monotonic() if math.isfinite(deadline) else None
        try:  # asyncio.wait, unlike await, leaves a future alone if the request is cancelled or the timeout expires.
            await asyncio.wait((ended,), timeout=timeout)
            if not ended.done():
                if future.cancel():
                    raise deadline_exceeded()
                await asyncio.wait((ended,))
            return ended.result()
        except asyncio.CancelledError:
            self.slot.cancelled = True  # A multi-pass stage checks this between two passes.
            if not future.cancel():
                await asyncio.wait((ended,))
                ended.exception()  # Retrieved, so that asyncio does not log it.
            raise
        finally:
            del future, ended  # They hold an exception whose traceback holds this frame: a cycle that keeps the image alive.

    def _decode(self) -> tuple[RGB, Size]:
        """Return the image as the network needs it, and its own size; release the encoded image."""
        self.slot.check_deadline()
        data, self._data = self._data, b""
        limits = self.settings.max_pixels, self.settings.max_side
        needed_size = self.model.segmenter.needed_size(self.options.inference)
        with self.timing.measure("decode"):
            try:
                image, size = decode_reduced(data, needed_size, *limits, self.slot.reserve_pixels)
                if self.options.output == "overlay":
                    self._image = image if image.shape[:2] == size else decode_image(data, *limits)
            except ImageError as error:
                raise ProblemError(error.code, str(error)) from None
        return image, size

    def _prepare(self) -> tuple[RGB, Size]:
        """Return the network input, and the size of the image."""
        image, size = self._decode()
        with self.timing.measure("decode"):
            return self.model.segmenter.preprocess_image(image), size

    def _postprocess(self, logits: Logits, size: Size) -> EncodedImage:
        """Return the response for the logits of an image of this size."""
        with self.timing.measure("label"):
            pixels = self._label(logits, size)
        with self.timing.measure("encode"):
            return self._encode(pixels)

    def _label(self, logits: Logits, size: Size) -> Pixels:
        """Return the label map, or the confidence if that is the output, from the logits of an image of this size."""
        segmenter = self.model.segmenter
        return segmenter.confidence(logits, size) if self._wants_confidence else segmenter.postprocess(logits, size)

    @property
    def _wants_confidence(self) -> bool:
        return self.options.output == "confidence"

    def _segment_multi_pass(self) -> EncodedImage:
        """Run all stages in this thread, with several passes through the network."""
        (image, size), segmenter = self._decode(), self.model.segmenter
        with self.timing.measure("label", exclude="forward"):
            pixels: Pixels
            if self.options.inference.tiled:
                confidence = np.empty(size, np.float32) if self._wants_confidence else None
                hflip_tta = self.options.inference.hflip_tta
                labels = segmenter.sliding_window_inference(
                    image, self._forward_many, hflip_tta=hflip_tta, confidence_out=confidence
                )
                pixels = labels if confidence is None else confidence
            else:
                (logits,) = segmenter.forward_hflip([segmenter.preprocess_image(image)], self._forward_many)
                pixels = self._label(logits, size)
        self._check_cancelled()
        with self.timing.measure("encode"):
            return self._encode(pixels)

    def _forward_many(self, inputs: Sequence[RGB]) -> list[Logits]:
        """Return the logits of several network inputs.

        Only as many inputs are queued at once as keep the workers busy, because the inputs of other requests wait behind them.
        The deadline applies to the first input of the request: what has begun is finished, unless the client disconnects.
        """
        is_first = "forward" not in self.timing.stages
        with self.timing.measure("forward"):
            max_queued = 2 * self.model.segmenter.backend.batch_size * len(self.pools.workers.workers)
            queued: deque[InferenceFuture] = deque()
            results: list[Logits] = []
            try:
                for x in inputs:
                    if len(queued) == max_queued:
                        results.append(wait_cancellable(queued.popleft(), self._check_cancelled)[0])
                    self._check_cancelled()
                    deadline = self.slot.deadline if is_first and not queued and not results else None
                    queued.append(self.pools.workers.submit(self.model.segmenters, x, deadline=deadline))
                while queued:
                    results.append(wait_cancellable(queued.popleft(), self._check_cancelled)[0])
                return results
            finally:
                for future in queued:  # If one of them failed, the others are not needed.
                    future.cancel()

    def _check_cancelled(self) -> None:
        if self.slot.cancelled:
            raise CancelledError

    def _encode(self, pixels: Pixels) -> EncodedImage:
        """Return the response for a label map or for a confidence (H, W)."""
        if self._wants_confidence:
            return EncodedImage(encode.encode_confidence_png(pixels), "image/png")
        labels, label_space = pixels, self.model.segmenter.labels
        if self.options.output == "labels":
            return EncodedImage(encode.encode_gray_png(labels), "image/png")
        if self.options.output == "json":
            statistics = encode.mask_statistics(labels, label_space)
            return EncodedImage(json.dumps(statistics, separators=(",", ":")).encode(), "application/json")
        if self._image is None:
            return EncodedImage(encode.encode_indexed_png(labels, label_space), "image/png")
        blended = encode.overlay(self._image, labels, label_space, self.options.opacity)
        if self.options.legend:
            blended = add_legend(blended, label_space, labels)
        if self.options.overlay_format == "jpeg":
            return EncodedImage(encode.encode_jpeg(blended), "image/jpeg")
        return EncodedImage(encode.encode_png(blended), "image/png")
