"""Poll until a condition holds, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_until(condition: Callable[[], object], timeout_s: float = 20, interval_s: float = 0.005) -> None:
    """Poll `condition` until it returns a true value.

    Raises:
        AssertionError: the condition still does not hold after `timeout_s` seconds.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"the condition does not hold after {timeout_s:g} s"
        time.sleep(interval_s)
