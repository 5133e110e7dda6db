"""The one thread that runs networks on a device: pictures of users first, evaluation only fills the gaps."""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

Result = TypeVar("Result")

USER, BACKGROUND, STOP = 0, 1, 2  # smaller goes first


class Worker:
    """Runs one call at a time, so that networks don't compete for the device; equals in the order they came."""

    def __init__(self) -> None:
        self._calls: queue.PriorityQueue[tuple[int, int, Future[Any], Callable[[], Any]]] = queue.PriorityQueue()
        self._order = itertools.count()
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)
        self._thread.start()

    def submit(self, call: Callable[[], Result], priority: int = USER) -> Future[tuple[Result, float]]:
        """Queue a call; the future gives its result and the seconds it waited. A cancelled one is not run."""
        future: Future[tuple[Result, float]] = Future()
        queued = time.perf_counter()
        self._calls.put((priority, next(self._order), future, lambda: (time.perf_counter() - queued, call())[::-1]))
        return future

    def close(self) -> None:
        """Finish what is queued and end the thread."""
        self._calls.put((STOP, next(self._order), Future(), lambda: None))
        self._thread.join()

    def _run(self) -> None:
        while True:
            priority, _, future, call = self._calls.get()
            if priority == STOP:
                return
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(call())
            except BaseException as error:  # whoever waits for the future gets it
                future.set_exception(error)
