"""Runs a command and tells what it said where it fails; leaves out what was not asked for, or what this machine can't do."""

from __future__ import annotations

import os
import subprocess
from typing import Any, NoReturn

import pytest

Done = subprocess.CompletedProcess[str]


def run(*command: object, check: bool = True, timeout: float = 600, **how: Any) -> Done:
    """A command's outcome. Raises AssertionError with its last words where it fails and `check` is set."""
    done = subprocess.run([*map(str, command)], text=True, capture_output=True, timeout=timeout, check=False, **how)
    assert not check or done.returncode == 0, (
        f"{' '.join(map(str, command))}: {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    )
    return done


def require_asked() -> None:
    """Skip the test where it was not asked for: `make fleet` does, `make test` leaves it out."""
    if os.environ.get("FLEET", "").strip() not in ("yes", "required"):
        pytest.skip("run by `make fleet`")


def leave_out(why: str) -> NoReturn:
    """Skip the test for want of something, and say so; FLEET=required makes that a failure."""
    if os.environ.get("FLEET") == "required":
        pytest.fail(why)
    pytest.skip(f"LEFT OUT: {why}")
