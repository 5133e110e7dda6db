"""SIGTERM and SIGINT as a wish to stop that the training loop grants at the next step; a second one stops at once."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)
SAME_S = 1.0  # within it a second signal is the same wish: a terminal and a launcher may both send theirs


class StopWish:
    """Whether somebody wishes the run to stop; with `tell` this process says that it has heard."""

    def __init__(self, tell: bool = False) -> None:
        self.asked = False
        self.tell = tell
        self._first = 0.0

    def note(self, number: int, frame: FrameType | None) -> None:
        """The signal handler: nothing is saved here, in the middle of whatever is going on."""
        if self.asked and time.monotonic() - self._first > SAME_S:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            os._exit(128 + number)  # the first process of a container is not killed by its own signals
        if not self.asked:
            self.asked, self._first = True, time.monotonic()
            if self.tell:
                with suppress(OSError):  # whoever read it may be gone, by the same Ctrl-C
                    os.write(2, b"\nstopping as soon as everything is saved; once more stops at once\n")


@contextmanager
def stop_wish(tell: bool = False) -> Iterator[StopWish]:
    """Listen to the signals for the duration of a `with` block in the main thread."""
    wish = StopWish(tell)
    before = {number: signal.signal(number, wish.note) for number in SIGNALS}
    try:
        yield wish
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM end a `with` block as Ctrl-C does, so that what it was writing is cleared away."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
