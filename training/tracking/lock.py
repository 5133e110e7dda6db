"""Locks on directories that one process at a time may write to; the kernel releases them when the process dies."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from core.errors import InputError
from core.runtime.atomic import makedirs_durable

LOCK_FILE = ".lock"
POLL_S = 0.1
WAIT_S = 5.0  # a process whose launcher was killed exits within this time


@contextmanager
def lock_run_dir(run_dir: Path, wait_s: float = WAIT_S) -> Iterator[None]:
    """Hold the lock of a run directory for the duration of a `with` block. A wait of more than WAIT_S is printed.

    Raises:
        InputError: Another process, named in the message, still holds it after `wait_s` seconds.
    """
    start, reported = time.monotonic(), False

    def on_contention(holder: str) -> None:
        nonlocal reported
        waited = time.monotonic() - start
        if waited > wait_s:
            raise InputError(f"--run: {run_dir} is being written by {holder}; stop that process, or choose another --run")
        if waited > WAIT_S and not reported:
            reported = True
            print(f"{run_dir}: waiting for {holder}, which is writing it", flush=True)

    with dir_lock(run_dir, on_contention):
        yield


@contextmanager
def dir_lock(directory: Path, on_contention: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of a directory, which is created if missing, for the duration of a `with` block.

    Args:
        on_contention: Called with the name of the holder every `POLL_S` seconds while another process holds the lock; raise
            in it to give up.
    """
    makedirs_durable(directory)
    descriptor = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        while not _try_lock(descriptor, directory):
            on_contention(os.pread(descriptor, 200, 0).decode(errors="replace") or "another process")
            time.sleep(POLL_S)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int, directory: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:  # some network file systems have no locks
        print(f"warning: {directory}: can't be locked ({error.strerror}); make sure that no other run writes to it", flush=True)
    return True
