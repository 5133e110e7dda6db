"""Locks of folders that one process at a time may write to; the system lets go of them when the process dies."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from core.errors import InputError
from core.runtime.files import make_folder

NAME = ".lock"
POLL_S = 0.1
WAIT_S = 5.0  # a writer whose launcher was killed is gone a moment later


@contextmanager
def only_writer(folder: Path, wait_s: float = WAIT_S) -> Iterator[None]:
    """Hold a run folder for the duration of a `with` block. Raises InputError naming the process that holds it."""
    until = time.monotonic() + wait_s

    def refuse(holder: str) -> None:
        if time.monotonic() > until:
            raise InputError(f"--run: {folder} is being written by {holder}; stop it first, or choose another --run")

    with hold(folder, refuse):
        yield


@contextmanager
def hold(folder: Path, busy: Callable[[str], None]) -> Iterator[None]:
    """Hold a folder for the duration of a `with` block; while another process does, `busy` is told which, again and again."""
    make_folder(folder)
    descriptor = os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        while not _take(descriptor, folder):
            busy(os.pread(descriptor, 200, 0).decode(errors="replace") or "another process")
            time.sleep(POLL_S)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, folder: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:  # a network file system may have no locks
        print(f"warning: {folder}: no lock ({error.strerror}); make sure that no other run writes there", flush=True)
    return True
