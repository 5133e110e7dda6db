"""Results of a function over items, in their order, computed in threads: all at once, or ahead of whoever asks for them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import TypeVar

from core.runtime.cpu import CORES

SLICE_S = 1.0
Item = TypeVar("Item")
Result = TypeVar("Result")


def at_once(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """`map(function, items)` in all cores: for work that lets go of Python's lock, as numpy's and OpenCV's does."""
    threads = min(len(items), CORES)
    if threads < 2:
        return [function(item) for item in items]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, items))


def prefetch(
    pool: Executor,
    function: Callable[[Item], Result],
    items: Iterable[Item],
    ahead: int,
    timeout_s: float | None = None,
    waiting_for_it: Callable[[], None] = lambda: None,
) -> Iterator[Result]:
    """`map(function, items)` with at most `ahead` items under way or waiting, so that memory stays bounded.

    An exception of `function` comes where its result would. While a result is waited for, `waiting_for_it` is called
    about every second; an exception of it ends the waiting. Raises TimeoutError where a result takes longer than
    `timeout_s` seconds.
    """
    waiting: deque[Future[Result]] = deque()
    rest = iter(items)
    try:
        for item in islice(rest, ahead):
            waiting.append(pool.submit(function, item))
        while waiting:
            future, since = waiting.popleft(), time.monotonic()
            while wait([future], _slice(timeout_s, since)).not_done:
                if timeout_s is not None and time.monotonic() - since >= timeout_s:
                    raise TimeoutError
                waiting_for_it()
            result = future.result()
            for item in islice(rest, 1):
                waiting.append(pool.submit(function, item))
            yield result
    finally:
        for future in waiting:
            future.cancel()


def _slice(timeout_s: float | None, since: float) -> float:
    return SLICE_S if timeout_s is None else max(0, min(SLICE_S, since + timeout_s - time.monotonic()))
