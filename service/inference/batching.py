"""Inference workers: one thread per device runs the network on batches; evaluations run only between users' requests."""

from __future__ import annotations

import enum
import heapq
import itertools
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from core.backends.base import Logits
from core.images.decode import RGB
from core.inference.segmenter import Segmenter
from service.api.problems import deadline_exceeded

MAX_BACKGROUND_DEFER_S = 1.0  # After this time without a gap, a background task runs as soon as no user's task is queued.
POLL_S = 0.002  # interval at which a worker with deferred tasks checks for a gap

InferenceFuture = Future[tuple[Logits, float]]  # logits (K, h, w), and the seconds in the queue


class Priority(enum.IntEnum):
    """Priority of a task; smaller values run first."""

    USER = 0
    BACKGROUND = 1


@dataclass(order=True)
class InferenceTask:
    """A queued network input.

    Attributes:
        priority: Tasks are ordered by priority, then by `order`.
        order: Number of the task in the order of submission.
        segmenters: The model on the device of each worker.
        x: Network input, (h, w, 3) uint8 RGB.
        deadline: Monotonic time after which the task is not begun, or None.
        since: Monotonic time of submission.
        future: Receives the result.
    """

    priority: Priority
    order: int
    segmenters: Sequence[Segmenter] = field(compare=False)
    x: RGB = field(compare=False)
    deadline: float | None = field(compare=False)
    since: float = field(compare=False, default_factory=time.monotonic)
    future: InferenceFuture = field(compare=False, default_factory=Future)

    def can_batch_with(self, other: InferenceTask) -> bool:
        """Return whether both tasks can be in one batch."""
        return self.priority == other.priority and self.segmenters is other.segmenters and self.x.shape == other.x.shape


class DeviceWorker:
    """Run the queued tasks of one device in batches of equal shapes.

    A batch contains what has been queued when the worker becomes free; waiting for more would leave the device idle. The
    backend determines the maximum size of a batch.

    Args:
        index: Index of the device.
        is_quiet: Returns whether no user's request is in flight.
        on_batch: Called with the size of every batch.
    """

    def __init__(self, index: int, is_quiet: Callable[[], bool], on_batch: Callable[[int], None]) -> None:
        self.index, self.is_quiet, self.on_batch = index, is_quiet, on_batch
        self._tasks: list[InferenceTask] = []
        self._changed = threading.Condition()
        self._running = 0
        self._stopping = False
        self._last_background = 0.0  # when the last background batch began
        self._thread = threading.Thread(target=self._run, name=f"inference-{index}", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """Return the number of queued and running tasks."""
        return len(self._tasks) + self._running

    @property
    def user_backlog(self) -> int:
        """Number of tasks that a new user's task has to wait for."""
        with self._changed:
            return self._running + sum(task.priority == Priority.USER and not task.future.cancelled() for task in self._tasks)

    def put(self, task: InferenceTask) -> None:
        """Queue a task."""
        with self._changed:
            if self._stopping:
                task.future.cancel()
                return
            heapq.heappush(self._tasks, task)
            self._changed.notify()

    def close(self) -> None:
        """Finish the queued tasks and end the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while batch := self._next_batch():
            self._run_batch(batch)
            del batch  # While the worker is idle, it must not keep images or an evicted model in memory.

    def _run_batch(self, batch: list[InferenceTask]) -> None:
        queue_seconds = [time.monotonic() - task.since for task in batch]
        try:
            logits = batch[0].segmenters[self.index].forward(np.stack([task.x for task in batch]))
            self.on_batch(len(batch))
            results = list(zip(logits, queue_seconds, strict=True))
        except BaseException as error:  # The thread that waits for the future raises it.
            for task in batch:
                task.future.set_exception(error)
        else:
            for task, result in zip(batch, results, strict=True):
                task.future.set_result(result)
        finally:
            self._running = 0

    def _next_batch(self) -> list[InferenceTask]:
        """Wait for the next batch and return it; empty if the worker must end."""
        with self._changed:
            while True:
                while not self._tasks or self._should_defer(self._tasks[0]):
                    if self._stopping and not self._tasks:
                        return []
                    self._changed.wait(POLL_S if self._tasks else None)
                first = heapq.heappop(self._tasks)
                max_size = first.segmenters[self.index].backend.batch_size
                batch = [first, *sorted(task for task in self._tasks if task.can_batch_with(first))[: max_size - 1]]
                if len(batch) > 1:
                    taken = {task.order for task in batch}
                    self._tasks = [task for task in self._tasks if task.order not in taken]
                    heapq.heapify(self._tasks)
                if batch := [task for task in batch if _claim(task)]:
                    self._running = len(batch)
                    if first.priority == Priority.BACKGROUND:
                        self._last_background = time.monotonic()
                    return batch
                del first  # While the worker is idle, it must not keep a cancelled task in memory.

    def _should_defer(self, task: InferenceTask) -> bool:
        """Return whether a task must wait for a gap between users' requests."""
        if task.priority == Priority.USER or self._stopping or self.is_quiet():
            return False
        return time.monotonic() - max(task.since, self._last_background) < MAX_BACKGROUND_DEFER_S


class WorkerPool:
    """One worker per device; a task is queued at the worker with the shortest backlog."""

    def __init__(
        self, devices: int, is_quiet: Callable[[], bool] = lambda: True, on_batch: Callable[[int], None] = lambda _: None
    ) -> None:
        self.workers = [DeviceWorker(index, is_quiet, on_batch) for index in range(devices)]
        self._order = itertools.count()

    def __len__(self) -> int:
        """Return the number of queued and running tasks."""
        return sum(map(len, self.workers))

    def submit(
        self,
        segmenters: Sequence[Segmenter],
        x: RGB,
        priority: Priority = Priority.USER,
        deadline: float | None = None,
        worker: DeviceWorker | None = None,
    ) -> InferenceFuture:
        """Queue a network input.

        Args:
            segmenters: The model on the device of each worker.
            x: Network input, (h, w, 3) uint8 RGB.
            priority: Users' requests run before background tasks.
            deadline: Monotonic time; a task that has not begun by then raises ProblemError 503 `deadline_exceeded`.
            worker: The worker to use; by default, the one with the shortest backlog.

        Returns:
            A future; if it is cancelled before the task begins, the task does not run.
        """
        task = InferenceTask(priority, next(self._order), segmenters, x, deadline)
        if worker is None:
            worker = (
                min(self.workers, key=lambda candidate: candidate.user_backlog) if len(self.workers) > 1 else self.workers[0]
            )
        worker.put(task)
        return task.future

    def close(self) -> None:
        """Finish the queued tasks and end the threads."""
        for worker in self.workers:
            worker.close()


def _claim(task: InferenceTask) -> bool:
    """Mark a task as running and return whether it must run, that is, it was not cancelled and its deadline is ahead."""
    if not task.future.set_running_or_notify_cancel():
        return False
    if task.deadline is not None and time.monotonic() > task.deadline:
        task.future.set_exception(deadline_exceeded())
        return False
    return True
