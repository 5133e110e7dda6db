"""Ordered parallel maps over threads: all items at once, or prefetched with a bounded number of pending results."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import TypeVar

from core.runtime.cpu import NUM_CPUS

POLL_INTERVAL_S = 1.0
Item = TypeVar("Item")
Result = TypeVar("Result")


def parallel_map(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Return `map(function, items)`, computed on all CPUs; for work that releases the GIL, such as numpy's and OpenCV's."""
    threads = min(len(items), NUM_CPUS)
    if threads < 2:
        return [function(item) for item in items]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, items))


def prefetch(
    pool: Executor,
    function: Callable[[Item], Result],
    items: Iterable[Item],
    max_pending: int,
    timeout_s: float | None = None,
    on_wait: Callable[[], None] = lambda: None,
) -> Iterator[Result]:
    """Yield `map(function, items)` in order, computed in `pool` ahead of the consumer.

    Args:
        max_pending: Maximum number of items that are in progress or waiting to be consumed; it bounds the memory.
        timeout_s: Maximum time to wait for one result, in seconds.
        on_wait: Called about once a second during a wait; an exception that it raises ends the iteration.

    Raises:
        TimeoutError: A result takes longer than `timeout_s`.
        Any exception of `function`, at the position of its result.
    """
    pending: deque[Future[Result]] = deque()
    remaining = iter(items)
    try:
        for item in islice(remaining, max_pending):
            pending.append(pool.submit(function, item))
        while pending:
            future, since = pending.popleft(), time.monotonic()
            while wait([future], _poll_timeout(timeout_s, since)).not_done:
                if timeout_s is not None and time.monotonic() - since >= timeout_s:
                    raise TimeoutError
                on_wait()
            result = future.result()
            for item in islice(remaining, 1):
                pending.append(pool.submit(function, item))
            yield result
    finally:
        for future in pending:
            future.cancel()


def _poll_timeout(timeout_s: float | None, since: float) -> float:
    """Return the seconds to wait until the next call of `on_wait` or the deadline, whichever comes first."""
    return POLL_INTERVAL_S if timeout_s is None else max(0, min(POLL_INTERVAL_S, since + timeout_s - time.monotonic()))
