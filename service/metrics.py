"""Metrics of the service for Prometheus."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, Counter, Gauge, Histogram, generate_latest
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import CollectorRegistry
from starlette.requests import ClientDisconnect

from service.api.problems import ProblemError
from service.inference.timing import Timing
from service.middleware.disconnect import ClientDisconnected

CONTENT_TYPE = CONTENT_TYPE_LATEST

DURATION_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
BATCH_SIZE_BUCKETS = (1, 2, 4, 8, 16, 32)


class Metrics:
    """The metrics of one application; each application has its own registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        common: dict[str, Any] = {"namespace": "segment", "registry": self.registry}
        self.requests = Counter(
            "requests", "Requests to /segment; code is ok, client_gone or an error code", ["model", "code"], **common
        )
        self.request_duration = Histogram(
            "request_duration_seconds",
            "Duration of successful requests to /segment",
            ["model"],
            buckets=DURATION_BUCKETS_S,
            **common,
        )
        self.stage_duration = Histogram(
            "stage_seconds", "Duration of each stage of an image", ["stage"], buckets=DURATION_BUCKETS_S, **common
        )
        self.images = Counter("images", "Segmented images; a request to /segment may have several", ["model"], **common)
        self.batch_size = Histogram("batch_size", "Network inputs in one batch", buckets=BATCH_SIZE_BUCKETS, **common)
        self.inflight_requests = Gauge("inflight_requests", "Requests to /segment in flight", **common)
        self.inflight_pixels = Gauge("inflight_pixels", "Pixels of the images of requests in flight", **common)
        self.queue_depth = Gauge("queue_depth", "Network inputs queued or running", **common)
        self.model_loaded = Gauge("model_loaded", "1 for a loaded model", ["model", "backend", "digest"], **common)

    @contextmanager
    def count_request(self, model: str) -> Iterator[None]:
        """Count a request to /segment and its outcome; measure its duration if it succeeds."""
        start, code = time.perf_counter(), "internal_error"
        try:
            yield
            code = "ok"
            self.request_duration.labels(model).observe(time.perf_counter() - start)
        except ProblemError as problem:
            code = problem.code
            raise
        except asyncio.CancelledError:  # The service is shutting down.
            code = "shutting_down"
            raise
        except (ClientDisconnected, ClientDisconnect):
            code = "client_gone"
            raise
        finally:
            self.requests.labels(model, code).inc()

    def observe_image(self, model: str, timing: Timing) -> None:
        """Count a segmented image, and record the duration of each of its stages."""
        self.images.labels(model).inc()
        for stage, seconds in timing.stages.items():
            self.stage_duration.labels(stage).observe(seconds)

    def set_loaded_models(self, models: Iterable[tuple[str, str, str]]) -> None:
        """Replace the list of loaded models: name, backend and digest of each."""
        self.model_loaded.clear()
        for model in models:
            self.model_loaded.labels(*model).set(1)

    def track_inflight(self, requests: Callable[[], float], pixels: Callable[[], float], queue: Callable[[], float]) -> None:
        """Set the functions that return the current values of the gauges whenever the metrics are read."""
        self.inflight_requests.set_function(requests)
        self.inflight_pixels.set_function(pixels)
        self.queue_depth.set_function(queue)

    def render(self) -> bytes:
        """Return all metrics in the Prometheus text format."""
        return generate_latest(self.registry)
