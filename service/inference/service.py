"""The inference service: thread pools for the stages of `/segment`, so that stages of different requests overlap."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from service.inference.admission import AdmissionController, RequestSlot
from service.inference.batching import WorkerPool
from service.inference.pipeline import OutputOptions, Pools, SegmentationRequest
from service.inference.registry import LoadedModel
from service.metrics import Metrics
from service.settings import Settings

# Each multi-pass request holds a band of logits in memory, and two per device suffice to keep it busy.
TILING_THREADS_PER_DEVICE = 2


class InferenceService:
    """Admission control, and the threads that decode images, run networks and encode masks."""

    def __init__(self, settings: Settings, num_devices: int, metrics: Metrics) -> None:
        self.settings = settings
        self.admission = AdmissionController(
            settings.queue, int(settings.queue_megapixels * 1e6), settings.deadline, settings.queue_bytes
        )
        self.workers = WorkerPool(
            num_devices, is_quiet=lambda: not self.admission.requests, on_batch=metrics.batch_size.observe
        )
        self.pools = Pools(
            decoders=ThreadPoolExecutor(settings.threads, "decode"),
            workers=self.workers,
            encoders=ThreadPoolExecutor(settings.threads, "encode"),
            tilers=ThreadPoolExecutor(TILING_THREADS_PER_DEVICE * num_devices, "tiles"),
        )
        metrics.track_inflight(lambda: self.admission.requests, lambda: self.admission.pixels, lambda: len(self.workers))

    def close(self) -> None:
        """Finish the work in flight and end the threads."""
        self.pools.decoders.shutdown()
        self.pools.tilers.shutdown()
        self.workers.close()
        self.pools.encoders.shutdown()

    def create_request(self, data: bytes, model: LoadedModel, options: OutputOptions, slot: RequestSlot) -> SegmentationRequest:
        """Return a request for the segmentation of an encoded image, which has not been started."""
        return SegmentationRequest(data, model, options, slot, self.settings, self.pools)

    async def warm_up(self, model: LoadedModel) -> None:
        """Run the network once on every device, because the first run is slower than the following ones."""
        x = model.segmenter.preprocess_image(np.zeros((64, 128, 3), np.uint8))
        for worker in self.workers.workers:
            await asyncio.wrap_future(self.workers.submit(model.segmenters, x, worker=worker))
