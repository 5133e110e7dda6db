"""Inject faults into the n-th system call on files that a piece of code makes through `os`."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

FILE_CALLS = ("open", "write", "fsync", "close", "rename", "replace", "link", "unlink")


class SyscallHook:
    """Count calls of functions of `os`, and call `action` just before the n-th of them.

    Args:
        patch: undoes the hook.
        at: number of the call at which `action` is called, starting at 1.
        action: receives the name of the function; it may raise or kill the process.
        names: functions of `os` to count.
    """

    def __init__(
        self, patch: pytest.MonkeyPatch, at: int, action: Callable[[str], None], names: tuple[str, ...] = FILE_CALLS
    ) -> None:
        self.count = 0
        for name in names:
            patch.setattr(os, name, self._wrap(name, getattr(os, name), at, action))

    def _wrap(
        self, name: str, original: Callable[..., object], at: int, action: Callable[[str], None]
    ) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            self.count += 1
            if self.count == at:
                action(name)
            return original(*args, **kwargs)

        return call


def run_in_fork(work: Callable[[], None]) -> int:
    """Run `work` in a forked process; return its exit code, which is negative if a signal ended it."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def run_killed_at(call: int, work: Callable[[], None]) -> int:
    """Run `work` in a forked process that is killed just before its n-th system call on files; return its exit code."""

    def child() -> None:
        with pytest.MonkeyPatch.context() as patch:
            SyscallHook(patch, call, lambda _: os.kill(os.getpid(), signal.SIGKILL))
            work()

    return run_in_fork(child)
