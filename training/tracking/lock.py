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
    """Hold the lock of a run directory for the duration of a `with` block.

    Raises:
        InputError: Another process, named in the message, still holds it after `wait_s` seconds.
    """
    deadline = time.monotonic() + wait_s

    def refuse(holder: str) -> None:
        if time.monotonic() > deadline:
            raise InputError(f"--run: {run_dir} is being written by {holder}; stop that process, or choose another --run")

    with dir_lock(run_dir, refuse):
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
