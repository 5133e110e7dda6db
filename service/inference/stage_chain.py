"""The stages of a request, each begun by the thread that ends the one before: the event loop waits for the last one only."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Executor, Future
from typing import Any, Generic, TypeVar

from service.api.problems import deadline_passed
from service.inference.admission import Ticket
from service.inference.timing import Timing

Result = TypeVar("Result")
Outcome = TypeVar("Outcome")


class Flow(Generic[Result]):
    """What a request has begun, and the result that it waits for. Waiting for a thread counts as `queue`."""

    def __init__(self, timing: Timing, ticket: Ticket) -> None:
        self._timing, self._ticket = timing, ticket
        self._begun: list[Future[Any]] = []
        self._started = False
        self._result: Future[Result] = Future()
        self._result.set_running_or_notify_cancel()  # from now on it ends by what a stage says only

    def begin(self, pool: Executor, stage: Callable[[], None]) -> None:
        """Run a stage in a pool; at its end it begins the next one, or gives the result."""
        submitted = time.perf_counter()

        def run() -> None:
            self._started = True
            self._timing.add("queue", time.perf_counter() - submitted)
            if self._ticket.given_up:
                raise CancelledError
            stage()

        self.follow(pool.submit(run), lambda _: None)

    def follow(self, future: Future[Outcome], then: Callable[[Outcome], None]) -> None:
        """Wait for a stage that is run elsewhere, and do something short with its outcome."""
        self._begun.append(future)
        future.add_done_callback(lambda ended: self._go_on(ended, then))

    def end(self, result: Result) -> None:
        """Give the result."""
        self._result.set_result(result)

    def _go_on(self, ended: Future[Outcome], then: Callable[[Outcome], None]) -> None:
        self._begun.remove(ended)  # what it holds must not stay until the garbage collector finds the circle
        try:
            then(ended.result())
        except BaseException as error:  # whoever waits for the result gets it
            self._result.set_exception(error)
        finally:
            del ended  # which holds the error, whose traceback holds what is here

    async def result(self) -> Result:
        """The result, or what a stage raised, or `deadline_passed` where it has not begun by then. Cancelled, begin no stage
        any more, and end when the one that runs ends, since it holds memory until then."""
        waiting, late = asyncio.wrap_future(self._result), self._ticket.deadline - time.monotonic()
        try:
            if math.isfinite(late):
                await asyncio.wait((waiting,), timeout=late)
                if not self._started and all(future.cancel() for future in tuple(self._begun)):
                    waiting.cancel()
                    raise deadline_passed()
            return await waiting
        except asyncio.CancelledError:
            waiting.cancel()  # what it would be told nobody asks for any more
            self._ticket.given_up = True
            while self._begun:
                for future in tuple(self._begun):
                    future.cancel()
                await asyncio.sleep(0.01)
            raise
        finally:
            del self._result  # another such circle, with what the stage that failed had in its hands
