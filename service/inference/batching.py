"""Workers: one thread for each device runs the networks; users' pictures first, evaluation fills the gaps."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from core.backends import Logits
from core.images.decode import RGB
from core.inference.segmenter import Segmenter
from service.api.problems import deadline_passed

USER, BACKGROUND = 0, 1  # smaller goes first
PATIENCE_S = 1.0  # so long a background picture waits for a gap; then it goes as soon as no user's stands before it
LOOK_S = 0.002  # between two looks for a gap

Done = Future[tuple[Logits, float]]  # logits (K, h, w), and the seconds that were waited for the worker


@dataclass(order=True)
class Item:
    """A network input (h, w, 3) that waits for a worker, with the network on every worker's device."""

    priority: int
    order: int
    networks: Sequence[Segmenter] = field(compare=False)
    x: RGB = field(compare=False)
    deadline: float | None = field(compare=False)  # on the monotonic clock: not begun after it
    since: float = field(compare=False, default_factory=time.monotonic)
    future: Done = field(compare=False, default_factory=Future)

    def goes_with(self, other: Item) -> bool:
        """Whether both can be in one batch."""
        return self.priority == other.priority and self.networks is other.networks and self.x.shape == other.x.shape


class Worker:
    """Runs what is queued on one device, equal shapes together.

    A batch closes as soon as the worker is free, with what has come by then: waiting for more would leave the device
    idle. Batches are as large as the back end asks for.
    """

    def __init__(self, number: int, quiet: Callable[[], bool], batched: Callable[[int], None]) -> None:
        self.number, self.quiet, self.batched = number, quiet, batched
        self._items: list[Item] = []
        self._change = threading.Condition()
        self._running = 0
        self._stopping = False
        self._background = 0.0  # when the last of it began
        self._thread = threading.Thread(target=self._run, name=f"inference-{number}", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """Pictures that wait or run."""
        return len(self._items) + self._running

    @property
    def before_users(self) -> int:
        """Pictures that a user's has to wait for."""
        with self._change:
            return self._running + sum(item.priority == USER and not item.future.cancelled() for item in self._items)

    def put(self, item: Item) -> None:
        """Queue an item."""
        with self._change:
            if self._stopping:
                item.future.cancel()
                return
            heapq.heappush(self._items, item)
            self._change.notify()

    def close(self) -> None:
        """Finish what is queued and end the thread."""
        with self._change:
            self._stopping = True
            self._change.notify()
        self._thread.join()

    def _run(self) -> None:
        while batch := self._take():
            self._answer(batch)
            del batch  # pictures, and the networks of a model that may be let go

    def _answer(self, batch: list[Item]) -> None:
        waited = [time.monotonic() - item.since for item in batch]
        try:
            logits = batch[0].networks[self.number].forward(np.stack([item.x for item in batch]))
            self.batched(len(batch))
            results = list(zip(logits, waited, strict=True))
        except BaseException as error:  # whoever waits for the futures gets it
            for item in batch:
                item.future.set_exception(error)
        else:
            for item, result in zip(batch, results, strict=True):
                item.future.set_result(result)
        finally:
            self._running = 0

    def _take(self) -> list[Item]:
        """The next batch, waited for; none where the worker is to end."""
        with self._change:
            while True:
                while not self._items or self._waits_for_a_gap(self._items[0]):
                    if self._stopping and not self._items:
                        return []
                    self._change.wait(LOOK_S if self._items else None)
                first = heapq.heappop(self._items)
                most = first.networks[self.number].backend.batch
                batch = [first, *sorted(item for item in self._items if item.goes_with(first))[: most - 1]]
                if len(batch) > 1:
                    taken = {item.order for item in batch}
                    self._items = [item for item in self._items if item.order not in taken]
                    heapq.heapify(self._items)
                if batch := [item for item in batch if _begins(item)]:
                    self._running = len(batch)
                    if first.priority == BACKGROUND:
                        self._background = time.monotonic()
                    return batch
                del first  # while it waits, nothing of what nobody wants any more

    def _waits_for_a_gap(self, item: Item) -> bool:
        if item.priority == USER or self._stopping or self.quiet():
            return False
        return time.monotonic() - max(item.since, self._background) < PATIENCE_S


class Workers:
    """One worker for each device; a picture goes to the one with the fewest."""

    def __init__(
        self, devices: int, quiet: Callable[[], bool] = lambda: True, batched: Callable[[int], None] = lambda _: None
    ) -> None:
        self.each = [Worker(number, quiet, batched) for number in range(devices)]
        self._order = itertools.count()

    def __len__(self) -> int:
        return sum(map(len, self.each))

    def submit(
        self,
        networks: Sequence[Segmenter],
        x: RGB,
        priority: int = USER,
        deadline: float | None = None,
        worker: Worker | None = None,
    ) -> Done:
        """Queue a network input (h, w, 3). A cancelled future is not begun, nor one whose deadline has passed:
        that raises Problem 503 `deadline_passed`."""
        item = Item(priority, next(self._order), networks, x, deadline)
        if worker is None:
            worker = min(self.each, key=lambda each: each.before_users) if len(self.each) > 1 else self.each[0]
        worker.put(item)
        return item.future

    def close(self) -> None:
        """Finish what is queued and end the threads."""
        for worker in self.each:
            worker.close()


def _begins(item: Item) -> bool:
    """Whether somebody still waits for it."""
    if not item.future.set_running_or_notify_cancel():
        return False
    if item.deadline is not None and time.monotonic() > item.deadline:
        item.future.set_exception(deadline_passed())
        return False
    return True
