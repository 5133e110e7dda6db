"""Admission control: bounds the requests, pixels and bytes in flight; requests beyond are refused with Retry-After."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from service.api.problems import ProblemError, deadline_exceeded

Result = TypeVar("Result")
MAX_RETRY_AFTER_S = 60
MAX_MULTI_PASS_FRACTION = 0.25  # of the requests in flight; a multi-pass request can take minutes for a large image
SMOOTHING = 0.1  # weight of the newest value in the moving average of the interval between departures


class AdmissionController:
    """Count what is in flight. Thread-safe.

    Args:
        max_requests: Maximum number of requests in flight.
        max_pixels: Maximum number of pixels of their images; a single image may exceed it.
        deadline_s: Seconds after its admission at which a request is refused if its inference has not begun.
        max_bytes: Maximum number of bytes of request bodies and responses in flight.
    """

    def __init__(self, max_requests: int, max_pixels: int, deadline_s: float = math.inf, max_bytes: float = math.inf) -> None:
        self.max_requests, self.max_pixels = max_requests, max_pixels
        self.deadline_s, self.max_bytes = deadline_s, max_bytes
        self.max_multi_pass = max(1, int(max_requests * MAX_MULTI_PASS_FRACTION))
        self.requests = self.multi_pass = self.pixels = self.bytes = 0
        self._lock = threading.Lock()
        self._idle_since = -math.inf
        self._mean_departure_interval_s = 0.0  # while requests are in flight
        self._last_departure = 0.0

    def idle_seconds(self) -> float:
        """Return for how many seconds no request has been in flight."""
        return 0.0 if self.requests else time.monotonic() - self._idle_since

    def check_capacity(self, multi_pass: bool = False) -> None:
        """Raise ProblemError 503 `overloaded` if no further request, or none of this kind, can be admitted."""
        if self.requests >= self.max_requests:
            raise self._overloaded_error(f"{self.requests} requests are in flight")
        if multi_pass and self.multi_pass >= self.max_multi_pass:
            raise self._overloaded_error(f"{self.multi_pass} requests with resolution=native or flip=true are in flight")

    @contextmanager
    def track_upload(self) -> Iterator[Callable[[int], None]]:
        """Count the bytes of a body from their arrival, before admission, to the end of the request.

        So a slow upload occupies no request slot. Yields a function that takes the size of each chunk and raises
        ProblemError 503 `overloaded` if it exceeds the limit.
        """
        reserved = 0

        def reserve_bytes(size: int) -> None:
            nonlocal reserved
            with self._lock:
                if self.bytes + size > self.max_bytes:
                    raise self._overloaded_error(f"{self.bytes / 1e6:.0f} MB of request bodies and responses are in flight")
                self.bytes += size
                reserved += size

        try:
            yield reserve_bytes
        finally:
            with self._lock:
                self.bytes -= reserved

    @contextmanager
    def track_response(self, size: int) -> Iterator[None]:
        """Count the bytes of a response while it is sent, so that slow readers reduce the capacity for uploads."""
        with self._lock:
            self.bytes += size
        try:
            yield
        finally:
            with self._lock:
                self.bytes -= size

    @contextmanager
    def admit(self, multi_pass: bool = False) -> Iterator[RequestSlot]:
        """Admit a request for the duration of the block.

        Args:
            multi_pass: Whether the request takes several passes through the network.

        Raises:
            ProblemError: 503 `overloaded`.
        """
        with self._lock:
            self.check_capacity(multi_pass)
            if not self.requests:
                self._last_departure = time.monotonic()
            self.requests += 1
            self.multi_pass += multi_pass
        slot = RequestSlot(self)
        try:
            yield slot
            with self._lock:  # Failed requests do not count: they leave earlier than the work takes.
                now = time.monotonic()
                interval = now - self._last_departure
                self._mean_departure_interval_s += SMOOTHING * (interval - self._mean_departure_interval_s)
                self._last_departure = now
        finally:
            with self._lock:
                slot.cancelled = True
                self.requests -= 1
                self.multi_pass -= multi_pass
                self.pixels -= slot.pixels
                self._idle_since = time.monotonic()

    def reserve_pixels(self, slot: RequestSlot, pixels: int) -> None:
        """Count an image that is about to be decoded. Raises ProblemError 503 `overloaded`.

        The images of a request are decoded one after another, so the largest one so far counts. It remains reserved until
        the end of the request: one that has begun is not refused in favor of a later one.
        """
        with self._lock:
            if slot.cancelled:  # The pixels would never be released.
                raise ProblemError("deadline_exceeded", "the request was cancelled")
            added, others = max(0, pixels - slot.pixels), self.pixels - slot.pixels
            if added and others and self.pixels + added > self.max_pixels:
                raise self._overloaded_error(f"{self.pixels / 1e6:.0f} megapixels are in flight")
            self.pixels += added
            slot.pixels += added

    def _overloaded_error(self, reason: str) -> ProblemError:
        seconds = min(MAX_RETRY_AFTER_S, max(1, math.ceil(self._mean_departure_interval_s * self.requests)))
        detail = f"{reason}, which is the limit; retry in {seconds} s"
        return ProblemError("overloaded", detail, {"Retry-After": str(seconds)})


class RequestSlot:
    """An admitted request: its deadline, its pixels, and whether it was cancelled or has ended."""

    def __init__(self, admission: AdmissionController) -> None:
        self.admission, self.pixels, self.cancelled = admission, 0, False
        self.deadline = time.monotonic() + admission.deadline_s

    async def run_before_deadline(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Return the result of a coroutine. Raises ProblemError 503 `deadline_exceeded` if it takes too long."""
        try:
            async with asyncio.timeout(max(0, self.deadline - time.monotonic()) if math.isfinite(self.deadline) else None):
                return await work
        except TimeoutError:
            raise deadline_exceeded() from None

    def check_deadline(self) -> None:
        """Raise ProblemError 503 `deadline_exceeded` if the deadline has passed."""
        if time.monotonic() > self.deadline:
            raise deadline_exceeded()

    def reserve_pixels(self, pixels: int) -> None:
        """Count an image of the request before it is decoded. Raises ProblemError 503 `overloaded`."""
        self.admission.reserve_pixels(self, pixels)
