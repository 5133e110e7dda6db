"""Admission: how many requests, megapixels and bytes may be inside at once; whoever comes beyond is told when to try again."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from service.api.problems import Problem, deadline_passed

Result = TypeVar("Result")
RETRY_AT_MOST = 60  # seconds
LONG = 0.25  # of the requests may be such as take several runs of the network, minutes for a large photograph
SMOOTHING = 0.1  # of the mean time between two that leave


class Admission:
    """Counts what is inside; safe from any thread."""

    def __init__(self, max_requests: int, max_pixels: int, seconds: float = math.inf, max_bytes: float = math.inf) -> None:
        self.max_requests, self.max_pixels, self.seconds, self.max_bytes = max_requests, max_pixels, seconds, max_bytes
        self.max_long = max(1, int(max_requests * LONG))
        self.requests = self.long = self.pixels = self.bytes = 0
        self._lock = threading.Lock()
        self._emptied = -math.inf  # when the last one left
        self._pace = 0.0  # seconds from one that leaves to the next, while others wait
        self._left = 0.0

    def quiet_s(self) -> float:
        """Seconds for which nobody has been inside."""
        return 0.0 if self.requests else time.monotonic() - self._emptied

    def require_room(self) -> None:
        """Raise Problem 503 `overloaded` where one more would be too many."""
        if self.requests >= self.max_requests:
            raise self._full(f"{self.requests} requests are inside")

    @contextmanager
    def uploading(self) -> Iterator[Callable[[int], None]]:
        """Tell how many bytes of a body have come: they count until the end, and before its request is inside.

        Whoever sends slowly takes no request's place. More than there is room for: Problem 503 `overloaded`.
        """
        held = 0

        def hold(size: int) -> None:
            nonlocal held
            with self._lock:
                if self.bytes + size > self.max_bytes:
                    raise self._full(f"{self.bytes / 1e6:.0f} MB of uploads are inside")
                self.bytes += size
                held += size

        try:
            yield hold
        finally:
            with self._lock:
                self.bytes -= held

    @contextmanager
    def replying(self, size: int) -> Iterator[None]:
        """A reply of so many bytes is being sent: whoever reads it slowly leaves less room for uploads."""
        with self._lock:
            self.bytes += size
        try:
            yield
        finally:
            with self._lock:
                self.bytes -= size

    @contextmanager
    def entered(self, long: bool = False) -> Iterator[Ticket]:
        """Be inside; a long one takes several runs of the network. Raises Problem 503 `overloaded`."""
        with self._lock:
            self.require_room()
            if long and self.long >= self.max_long:
                raise self._full(f"{self.long} requests that take several runs of the network are inside")
            if not self.requests:
                self._left = time.monotonic()
            self.requests += 1
            self.long += long
        ticket = Ticket(self)
        try:
            yield ticket
            with self._lock:  # who leaves without an answer says nothing of how long one takes
                now = time.monotonic()
                self._pace += SMOOTHING * (now - self._left - self._pace)
                self._left = now
        finally:
            with self._lock:
                ticket.given_up = True
                self.requests -= 1
                self.long -= long
                self.pixels -= ticket.pixels
                self._emptied = time.monotonic()

    def weigh(self, ticket: Ticket, pixels: int) -> None:
        """Add a picture that is about to be decoded; one alone may be larger than the limit."""
        with self._lock:
            if ticket.given_up:  # meanwhile: there is nobody to decode it for
                raise Problem("deadline_passed", "the request was given up")
            if self.pixels and self.pixels + pixels > self.max_pixels:
                raise self._full(f"{self.pixels / 1e6:.0f} megapixels are inside")
            self.pixels += pixels
            ticket.pixels += pixels

    def _full(self, what: str) -> Problem:
        seconds = min(RETRY_AT_MOST, max(1, math.ceil(self._pace * self.requests)))
        return Problem("overloaded", f"{what}, and no more are taken; try again in {seconds} s", {"Retry-After": str(seconds)})


class Ticket:
    """A request that is inside."""

    def __init__(self, admission: Admission) -> None:
        self.admission, self.pixels, self.given_up = admission, 0, False
        self.deadline = time.monotonic() + admission.seconds

    async def in_time(self, work: Coroutine[Any, Any, Result]) -> Result:
        """What comes of some work that has to be done first. Raises Problem 503 `deadline_passed` where that takes too long."""
        try:
            async with asyncio.timeout(max(0, self.deadline - time.monotonic()) if math.isfinite(self.deadline) else None):
                return await work
        except TimeoutError:
            raise deadline_passed() from None

    def require_time(self) -> None:
        """Raise Problem 503 `deadline_passed` where it has been inside for too long."""
        if time.monotonic() > self.deadline:
            raise deadline_passed()

    def weigh(self, pixels: int) -> None:
        """Tell the size of its picture before it is decoded. Raises Problem 503 `overloaded`."""
        self.admission.weigh(self, pixels)
