"""Skip end-to-end tests whose prerequisites are missing, or fail them if E2E=required."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest


def skip_or_fail(reason: str) -> NoReturn:
    """Skip the current test because a prerequisite is missing; fail it if the environment has E2E=required."""
    if os.environ.get("E2E") == "required":
        pytest.fail(f"E2E=required, but {reason}")
    pytest.skip(reason)


def require_programs(*names: str, packages: str) -> None:
    """Skip or fail the current test unless all programs are on the PATH.

    Args:
        names: programs.
        packages: Debian packages that provide them, for the message.
    """
    missing = [name for name in names if not shutil.which(name)]
    if missing:
        skip_or_fail(f"{', '.join(missing)} not found; install with: apt-get install {packages}")


def require_root() -> None:
    """Skip or fail the current test unless it runs as root."""
    if os.geteuid():
        skip_or_fail("this test needs root")
