"""The lock of a run folder: one writer at a time, and the second is told who the first is."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from core.errors import InputError

NAME = ".lock"
WAIT_S = 5.0  # a writer whose launcher was killed is gone a moment later


@contextmanager
def only_writer(folder: Path, wait_s: float = WAIT_S) -> Iterator[None]:
    """Hold the folder for the duration of a `with` block; the system lets go of it when the process dies.

    Raises InputError naming the process that holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _take(descriptor, folder, time.monotonic() + wait_s)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, folder: Path, until: float) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() < until:
                time.sleep(0.1)
                continue
            holder = os.pread(descriptor, 200, 0).decode(errors="replace") or "another process"
            raise InputError(f"--run: {folder} is being written by {holder}; stop it first, or choose another --run") from None
        except OSError as error:  # a network file system may have no locks
            print(f"warning: {folder}: no lock ({error.strerror}); make sure that no other run writes there", flush=True)
            return
