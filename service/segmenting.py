"""A photograph through the stages of `/segment`: decode, queue, forward, label, encode, each off the event loop.

Stages of different requests overlap: some threads decode, one for each device runs the networks, some encode. Between
them goes what the next one needs and nothing else, so that what waits takes little memory. What takes several runs of
the network has threads of its own.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Executor, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np

from core import masks
from core.backends import Logits
from core.errors import ImageError
from core.images import RGB, decode_photo
from core.masks import Labels
from core.segmenter import PLAIN, How, Segmenter
from core.transforms import Size
from service.admission import Admission, Ticket
from service.models import Loaded
from service.problems import Problem
from service.settings import Settings
from service.telemetry import Telemetry
from service.timing import Timing
from service.worker import Workers

Result = TypeVar("Result")
Output = Literal["mask", "labels", "overlay", "json"]
Format = Literal["jpeg", "png"]


# photographs that go by tiles at once: each holds a band of logits, and two keep a device busy
TILERS = 2
LOOK_S = 0.1  # between two looks whether a photograph that goes by tiles is still wanted


@dataclass(frozen=True)
class Wish:
    """What a request wants to have back."""

    output: Output = "mask"
    style: Format = "jpeg"
    how: How = PLAIN


class Segmenting:
    """The pools of threads, the workers, and who is inside."""

    def __init__(self, settings: Settings, devices: int, telemetry: Telemetry) -> None:
        self.settings, self.telemetry = settings, telemetry
        self.decoders = ThreadPoolExecutor(settings.threads, "decode")
        self.encoders = ThreadPoolExecutor(settings.threads, "encode")
        self.tilers = ThreadPoolExecutor(TILERS, "tiles")
        self.admission = Admission(settings.queue, int(settings.queue_megapixels * 1e6), settings.deadline)
        self.workers = Workers(devices, quiet=lambda: not self.admission.requests, batched=telemetry.batch.observe)
        telemetry.watch(lambda: self.admission.requests, lambda: self.admission.pixels, lambda: len(self.workers))

    def close(self) -> None:
        """Finish what is under way."""
        self.decoders.shutdown()
        self.tilers.shutdown()
        self.workers.close()
        self.encoders.shutdown()

    async def segment(self, data: bytes, model: Loaded, wish: Wish, ticket: Ticket) -> tuple[bytes, str, Timing]:
        """An encoded photograph to the encoded reply, its media type and what each stage took. Raises Problem.

        Cancelled, it begins no stage that has not begun, and ends when the one that has begun ends.
        """
        timing, networks, segmenter = Timing(), model.segmenters, model.segmenter
        # lists that a stage empties: what is not needed any more must not wait with the request
        encoded, photo = [data], [np.empty((0, 0, 3), np.uint8)]
        del data

        def decode() -> Size:
            ticket.require_time()
            with timing.of("decode"):
                try:
                    photo[0] = decode_photo(encoded.pop(), self.settings.max_pixels, self.settings.max_side, ticket.weigh)
                except ImageError as error:
                    raise Problem(error.code, str(error)) from None
            return photo[0].shape[0], photo[0].shape[1]

        def prepare() -> tuple[RGB, Size]:
            size = decode()
            with timing.of("decode"):
                x = segmenter.prepare(photo[0])
            if wish.output != "overlay":
                photo.clear()
            return x, size

        def label_and_encode(logits: Logits, size: Size) -> tuple[bytes, str]:
            with timing.of("label"):
                labels = segmenter.label(logits, size)
            return encode(labels)

        def encode(labels: Labels) -> tuple[bytes, str]:
            with timing.of("encode"):
                return encode_labels(labels, photo[0] if photo else None, segmenter, wish)

        def several() -> tuple[bytes, str]:
            decode()
            return encode(self.several(photo[0], model, wish.how, ticket, timing))

        if wish.how == PLAIN:
            x, size = await _in(self.decoders, prepare, timing, ticket)
            began = time.perf_counter()
            waiting = self.workers.submit(networks, x, deadline=ticket.deadline)
            del x
            logits, waited = await asyncio.wrap_future(waiting)
            timing.add("queue", waited)
            timing.add("forward", time.perf_counter() - began - waited)
            content, media_type = await _in(self.encoders, lambda: label_and_encode(logits, size), timing, ticket)
        else:
            content, media_type = await _in(self.tilers, several, timing, ticket)
        for stage, seconds in timing.stages.items():
            self.telemetry.stage.labels(stage).observe(seconds)
        return content, media_type, timing

    async def warm(self, model: Loaded, rgb: RGB) -> None:
        """Let every worker's network answer once: the first run is slower than those that follow."""
        x = model.segmenter.prepare(rgb)
        for worker in self.workers.each:
            await asyncio.wrap_future(self.workers.submit(model.segmenters, x, worker=worker))

    def several(self, rgb: RGB, model: Loaded, how: How, ticket: Ticket, timing: Timing) -> Labels:
        """The label map of a photograph that takes several runs of the network, which go to the workers side by side.

        The deadline is for the first of them: what has begun is brought to its end, unless the client goes.
        """
        segmenter, deadline = model.segmenter, [ticket.deadline]

        def logits_of(inputs: Sequence[RGB]) -> list[Logits]:
            with timing.of("forward"):
                until = deadline.pop() if deadline else None
                waiting = [self.workers.submit(model.segmenters, x, deadline=until) for x in inputs]
                try:
                    while wait(waiting, LOOK_S).not_done:
                        if ticket.given_up:
                            raise CancelledError
                    return [future.result()[0] for future in waiting]
                finally:
                    for future in waiting:  # where one of them failed, nobody needs the others
                        future.cancel()

        with timing.of("label", less="forward"):
            if how.native:
                return segmenter.by_tiles(rgb, logits_of, flip=how.flip)
            (logits,) = segmenter.flipped([segmenter.prepare(rgb)], logits_of)
            return segmenter.label(logits, (rgb.shape[0], rgb.shape[1]))


async def _in(pool: Executor, call: Callable[[], Result], timing: Timing, ticket: Ticket) -> Result:
    """Run a call in a pool; cancelled while it runs, wait for its end, since it holds memory until then."""
    submitted = time.perf_counter()

    def begin() -> Result:
        timing.add("queue", time.perf_counter() - submitted)
        return call()

    future = pool.submit(begin)
    try:
        return await asyncio.wrap_future(future)
    except asyncio.CancelledError:
        ticket.given_up = True
        while not future.done():
            await asyncio.sleep(0.01)
        raise


def encode_labels(labels: Labels, rgb: RGB | None, segmenter: Segmenter, wish: Wish) -> tuple[bytes, str]:
    """A label map as the reply that was asked for, and its media type; an overlay needs the photograph."""
    space = segmenter.labels
    if wish.output == "labels":
        return masks.grey_png(labels), "image/png"
    if wish.output == "json":
        return json.dumps(masks.description(labels, space), separators=(",", ":")).encode(), "application/json"
    if wish.output == "mask" or rgb is None:
        return masks.indexed_png(labels, space), "image/png"
    mixed = masks.overlay(rgb, labels, space)
    return (masks.photo_jpeg(mixed), "image/jpeg") if wish.style == "jpeg" else (masks.photo_png(mixed), "image/png")
