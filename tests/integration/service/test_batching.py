"""Inference workers: priorities, batches, deadlines, and the distribution over devices."""

from __future__ import annotations

import itertools
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from service.api.problems import ProblemError
from service.inference.batching import MAX_BACKGROUND_DEFER_S, Priority, WorkerPool
from tests.support.fake_backends import RecordingBackend
from tests.support.wait import wait_until


def constant_image(value: int, side: int = 1) -> np.ndarray:
    return np.full((side, side, 3), value, np.uint8)


def test_user_tasks_run_before_background_tasks() -> None:
    workers, backend = WorkerPool(1), RecordingBackend()
    priorities = [Priority.USER, Priority.BACKGROUND] * 2 + [Priority.USER]
    futures = [workers.submit([backend], constant_image(n), priority) for n, priority in enumerate(priorities)]
    backend.release()
    workers.close()
    assert [int(future.result()[0].flat[0]) for future in futures] == [0, 1, 2, 3, 4]
    assert backend.batches == [[0], [2], [4], [1], [3]]


def test_queued_tasks_of_equal_shape_form_batches() -> None:
    workers, backend = WorkerPool(1), RecordingBackend(batch_size=3)
    segmenters = [backend]
    workers.submit(segmenters, constant_image(0))
    wait_until(lambda: backend.batches)
    futures = [workers.submit(segmenters, constant_image(n, side=2 if n == 2 else 1)) for n in (1, 2, 3, 4, 5)]
    backend.release()
    assert [int(future.result()[0].flat[0]) for future in futures] == [1, 2, 3, 4, 5]
    workers.close()
    assert backend.batches == [[0], [1, 3, 4], [2], [5]]


def test_cancelled_task_does_not_run() -> None:
    workers, backend = WorkerPool(1), RecordingBackend()
    workers.submit([backend], constant_image(0))
    wait_until(lambda: backend.batches)
    cancelled = workers.submit([backend], constant_image(1))
    remaining = workers.submit([backend], constant_image(2))
    assert cancelled.cancel()
    backend.release()
    remaining.result()
    workers.close()
    assert backend.batches == [[0], [2]]


def test_task_past_deadline_does_not_run() -> None:
    workers, backend = WorkerPool(1), RecordingBackend()
    workers.submit([backend], constant_image(0))
    wait_until(lambda: backend.batches)
    late = workers.submit([backend], constant_image(1), deadline=time.monotonic() - 1)
    backend.release()
    with pytest.raises(ProblemError, match="too busy"):
        late.result()
    workers.close()
    assert backend.batches == [[0]]


def test_task_is_queued_at_worker_with_shortest_backlog() -> None:
    workers, backends = WorkerPool(2), (RecordingBackend(), RecordingBackend())
    for value in range(4):
        workers.submit(backends, constant_image(value))
    assert [len(worker) for worker in workers.workers] == [2, 2]
    for backend in backends:
        backend.release()
    workers.close()
    assert sorted(itertools.chain(*(batch for backend in backends for batch in backend.batches))) == [0, 1, 2, 3]


def test_background_task_waits_for_gap_or_maximum_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = time.monotonic()
    monkeypatch.setattr("service.inference.batching.time", SimpleNamespace(monotonic=lambda: clock))
    quiet, checks = threading.Event(), itertools.count()
    last_check = 0

    def is_quiet() -> bool:
        nonlocal last_check
        last_check = next(checks)
        return quiet.is_set()

    def wait_until_deferred() -> None:
        """Wait until the worker has checked several times whether it may run the queued task."""
        target = last_check + 3
        wait_until(lambda: last_check >= target)

    workers, backend = WorkerPool(1, is_quiet), RecordingBackend()
    backend.release()
    first = workers.submit([backend], constant_image(0), Priority.BACKGROUND)
    wait_until_deferred()
    assert backend.batches == []
    clock = time.monotonic() + MAX_BACKGROUND_DEFER_S
    first.result(10)
    second = workers.submit([backend], constant_image(1), Priority.BACKGROUND)
    wait_until_deferred()
    assert backend.batches == [[0]]
    quiet.set()
    second.result(10)
    workers.close()
    assert backend.batches == [[0], [1]]
