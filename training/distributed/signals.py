"""Handle SIGTERM and SIGINT: the first one requests a stop after the current step, a second one stops immediately."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)
DEBOUNCE_S = 1.0  # a second signal within this time counts as the first: a terminal and a launcher may both send one
STOP_NOTICE = b"\nstopping once everything is saved; repeat the signal to stop immediately\n"


class StopRequest:
    """Whether a signal has requested a stop; with `announce`, the first signal prints a notice on standard error."""

    def __init__(self, announce: bool = False) -> None:
        self.requested = False
        self.announce = announce
        self._requested_at = 0.0  # monotonic time

    def handle_signal(self, number: int, frame: FrameType | None) -> None:
        """Record the request. Nothing is saved here: a signal handler may interrupt any operation."""
        if self.requested and time.monotonic() - self._requested_at > DEBOUNCE_S:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            os._exit(128 + number)  # Reached by process 1 of a container, which default signal actions do not kill.
        if not self.requested:
            self.requested, self._requested_at = True, time.monotonic()
            if self.announce:
                with suppress(OSError):  # The same Ctrl-C may have closed the other end of a pipe.
                    os.write(2, STOP_NOTICE)


@contextmanager
def graceful_stop(announce: bool = False) -> Iterator[StopRequest]:
    """Turn signals into a stop request for the duration of a `with` block, in the main thread."""
    stop_request = StopRequest(announce)
    previous = {number: signal.signal(number, stop_request.handle_signal) for number in SIGNALS}
    try:
        yield stop_request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Let SIGTERM raise KeyboardInterrupt in a `with` block, as Ctrl-C does, so that temporary files are removed."""
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
