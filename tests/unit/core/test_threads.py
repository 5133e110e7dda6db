"""Tests of core.runtime.threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from core.runtime.threads import parallel_map, prefetch


def test_parallel_map_keeps_order() -> None:
    assert parallel_map(lambda x: x * x, range(100)) == [x * x for x in range(100)]
    assert parallel_map(str, [3]) == ["3"] and parallel_map(str, []) == []


def test_parallel_map_raises_error() -> None:
    with pytest.raises(ZeroDivisionError):
        parallel_map(lambda x: 1 / x, [1, 0, 2])


def test_on_wait_can_interrupt_prefetch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.runtime.threads.POLL_INTERVAL_S", 0.01)
    finished = Event()
    calls = []

    def interrupt() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    with ThreadPoolExecutor(1) as pool, pytest.raises(KeyboardInterrupt):
        try:
            next(prefetch(pool, lambda _: finished.wait(), [0], 1, None, interrupt))
        finally:
            finished.set()
    assert len(calls) == 3
