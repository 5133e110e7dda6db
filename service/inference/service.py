"""Pools of threads that `/segment` goes through, each off the event loop: stages of different requests overlap."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from service.inference.admission import Admission, Ticket
from service.inference.batching import Workers
from service.inference.pipeline import Pools, Reply, Segmentation, Wish
from service.inference.registry import Loaded
from service.inference.timing import Timing
from service.metrics import Telemetry
from service.settings import Settings

TILERS = 2  # for each device, photographs that take several runs: each holds a band of logits, and two keep it busy


class Segmenting:
    """Some threads decode, one for each device runs the networks, some encode; and who is inside."""

    def __init__(self, settings: Settings, devices: int, telemetry: Telemetry) -> None:
        self.settings, self.telemetry = settings, telemetry
        self.admission = Admission(
            settings.queue, int(settings.queue_megapixels * 1e6), settings.deadline, settings.queue_bytes
        )
        self.workers = Workers(devices, quiet=lambda: not self.admission.requests, batched=telemetry.batch.observe)
        self._pools = Pools(
            decoders=ThreadPoolExecutor(settings.threads, "decode"),
            workers=self.workers,
            encoders=ThreadPoolExecutor(settings.threads, "encode"),
            tilers=ThreadPoolExecutor(TILERS * devices, "tiles"),
        )
        telemetry.watch(lambda: self.admission.requests, lambda: self.admission.pixels, lambda: len(self.workers))

    def close(self) -> None:
        """Finish what is under way."""
        self._pools.decoders.shutdown()
        self._pools.tilers.shutdown()
        self.workers.close()
        self._pools.encoders.shutdown()

    async def segment(self, data: bytes, model: Loaded, wish: Wish, ticket: Ticket) -> tuple[Reply, Timing]:
        """An encoded photograph to the reply, and what each stage took. Raises Problem."""
        segmentation = Segmentation(data, model, wish, ticket, self.settings, self._pools)
        del data
        reply = await segmentation.reply()
        for stage, seconds in segmentation.timing.stages.items():
            self.telemetry.stage.labels(stage).observe(seconds)
        return reply, segmentation.timing

    async def warm(self, model: Loaded) -> None:
        """Let every worker's network answer once: the first run is slower than those that follow."""
        x = model.segmenter.prepare(np.zeros((64, 128, 3), np.uint8))
        for worker in self.workers.each:
            await asyncio.wrap_future(self.workers.submit(model.segmenters, x, worker=worker))
