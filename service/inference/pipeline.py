"""One photograph through the stages of `/segment`: decode, queue, forward, label, encode.

Between the stages goes what the next one needs and nothing else, so that what waits takes little memory.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import CancelledError, Executor
from dataclasses import dataclass
from typing import Literal, NamedTuple

from core.backends import Logits
from core.errors import ImageError
from core.images import encode
from core.images.decode import RGB, decode_photo
from core.images.encode import Labels
from core.images.resize import Size
from core.inference.segmenter import PLAIN, How
from service.api.problems import Problem
from service.inference.admission import Ticket
from service.inference.batching import Done, Workers
from service.inference.registry import Loaded
from service.inference.stage_chain import Flow
from service.inference.timing import Timing
from service.middleware.disconnect import waited_for
from service.settings import Settings

Output = Literal["mask", "labels", "overlay", "json"]
Format = Literal["jpeg", "png"]
Reply = tuple[bytes, str]  # and its media type


@dataclass(frozen=True)
class Wish:
    """What a request wants to have back."""

    output: Output = "mask"
    style: Format = "jpeg"
    how: How = PLAIN


class Pools(NamedTuple):
    """Where the stages run."""

    decoders: Executor
    workers: Workers
    encoders: Executor
    tilers: Executor  # what takes several runs of the network


class Segmentation:
    """One photograph on its way; `timing` tells what each stage took."""

    def __init__(self, data: bytes, model: Loaded, wish: Wish, ticket: Ticket, settings: Settings, pools: Pools) -> None:
        self.model, self.wish, self.ticket, self.settings, self.pools = model, wish, ticket, settings, pools
        self.timing = Timing()
        self._data = data
        self._photo: RGB | None = None  # for an overlay
        self._flow: Flow[Reply] = Flow(self.timing, ticket)

    async def reply(self) -> Reply:
        """Go all the way. Raises Problem. Cancelled, it begins no stage any more, and ends when the one that runs ends."""
        if self.wish.how == PLAIN:
            self._flow.begin(self.pools.decoders, self._prepare)
        else:
            self._flow.begin(self.pools.tilers, self._several)
        return await self._flow.result()

    def _decode(self) -> RGB:
        self.ticket.require_time()
        data, self._data = self._data, b""
        with self.timing.of("decode"):
            try:
                photo = decode_photo(data, self.settings.max_pixels, self.settings.max_side, self.ticket.weigh)
            except ImageError as error:
                raise Problem(error.code, str(error)) from None
        self._photo = photo if self.wish.output == "overlay" else None
        return photo

    def _prepare(self) -> None:
        photo = self._decode()
        with self.timing.of("decode"):
            x = self.model.segmenter.prepare(photo)
        size, began = (photo.shape[0], photo.shape[1]), time.perf_counter()
        waiting = self.pools.workers.submit(self.model.segmenters, x, deadline=self.ticket.deadline)
        self._flow.follow(waiting, lambda outcome: self._inferred(*outcome, began, size))

    def _inferred(self, logits: Logits, waited: float, began: float, size: Size) -> None:
        self.timing.add("queue", waited)
        self.timing.add("forward", time.perf_counter() - began - waited)
        self._flow.begin(self.pools.encoders, lambda: self._label(logits, size))

    def _label(self, logits: Logits, size: Size) -> None:
        with self.timing.of("label"):
            labels = self.model.segmenter.label(logits, size)
        self._encode(labels)

    def _several(self) -> None:
        photo, segmenter = self._decode(), self.model.segmenter
        with self.timing.of("label", less="forward"):
            if self.wish.how.native:
                labels = segmenter.by_tiles(photo, self._logits_of, flip=self.wish.how.flip)
            else:
                (logits,) = segmenter.flipped([segmenter.prepare(photo)], self._logits_of)
                labels = segmenter.label(logits, (photo.shape[0], photo.shape[1]))
        self._require_client()
        self._encode(labels)

    def _logits_of(self, inputs: Sequence[RGB]) -> list[Logits]:
        """Logits of several inputs, some of which are with the workers at once: as many as keep these busy, and no more, since
        a photograph that takes one run stands behind them.

        The deadline is for the first of them: what has begun is brought to its end, unless the client goes.
        """
        first = "forward" not in self.timing.stages
        with self.timing.of("forward"):
            most = 2 * self.model.segmenter.backend.batch * len(self.pools.workers.each)
            waiting: deque[Done] = deque()
            found: list[Logits] = []
            try:
                for x in inputs:
                    if len(waiting) == most:
                        found.append(waited_for(waiting.popleft(), self._require_client)[0])
                    self._require_client()
                    deadline = self.ticket.deadline if first and not waiting and not found else None
                    waiting.append(self.pools.workers.submit(self.model.segmenters, x, deadline=deadline))
                while waiting:
                    found.append(waited_for(waiting.popleft(), self._require_client)[0])
                return found
            finally:
                for future in waiting:  # where one of them failed, nobody needs the others
                    future.cancel()

    def _require_client(self) -> None:
        if self.ticket.given_up:
            raise CancelledError

    def _encode(self, labels: Labels) -> None:
        with self.timing.of("encode"):
            reply = self._encoded(labels)
        self._flow.end(reply)

    def _encoded(self, labels: Labels) -> Reply:
        space = self.model.segmenter.labels
        if self.wish.output == "labels":
            return encode.grey_png(labels), "image/png"
        if self.wish.output == "json":
            return json.dumps(encode.description(labels, space), separators=(",", ":")).encode(), "application/json"
        if self._photo is None:
            return encode.indexed_png(labels, space), "image/png"
        mixed = encode.overlay(self._photo, labels, space)
        return (encode.photo_jpeg(mixed), "image/jpeg") if self.wish.style == "jpeg" else (encode.photo_png(mixed), "image/png")
