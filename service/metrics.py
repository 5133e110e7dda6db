"""Telemetry: what the service counts and times, for Prometheus."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, Counter, Gauge, Histogram, generate_latest
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import CollectorRegistry
from starlette.requests import ClientDisconnect

from service.api.problems import Problem
from service.middleware.disconnect import ClientGone

CONTENT_TYPE = CONTENT_TYPE_LATEST

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
PICTURES = (1, 2, 4, 8, 16, 32)


class Telemetry:
    """The metrics of one service."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        make: dict[str, Any] = {"namespace": "segment", "registry": self.registry}
        self.requests = Counter(
            "requests", "Requests to /segment; code is ok, client_gone or an error's", ["model", "code"], **make
        )
        self.seconds = Histogram(
            "request_seconds", "Of those that were answered with a mask", ["model"], buckets=SECONDS, **make
        )
        self.stage = Histogram("stage_seconds", "Of each stage of a reply", ["stage"], buckets=SECONDS, **make)
        self.batch = Histogram("batch_pictures", "Network inputs that ran together", buckets=PICTURES, **make)
        self.inside = Gauge("inside_requests", "Requests to /segment that are inside", **make)
        self.pixels = Gauge("inside_pixels", "Pixels of their photographs", **make)
        self.queue = Gauge("queue_pictures", "Network inputs that wait or run", **make)
        self.model = Gauge("model_loaded", "1 for a model in memory", ["model", "backend", "digest"], **make)

    @contextmanager
    def counted(self, model: str) -> Iterator[None]:
        """Count and time a request."""
        began, code = time.perf_counter(), "internal_error"
        try:
            yield
            code = "ok"
            self.seconds.labels(model).observe(time.perf_counter() - began)
        except Problem as problem:
            code = problem.code
            raise
        except asyncio.CancelledError:  # the service ends
            code = "shutting_down"
            raise
        except (ClientGone, ClientDisconnect):
            code = "client_gone"
            raise
        finally:
            self.requests.labels(model, code).inc()

    def watch(self, requests: Callable[[], float], pixels: Callable[[], float], queue: Callable[[], float]) -> None:
        """Ask these when the metrics are read."""
        self.inside.set_function(requests)
        self.pixels.set_function(pixels)
        self.queue.set_function(queue)

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self.registry)
