"""Run external commands with readable failures."""

from __future__ import annotations

import subprocess
from typing import Any

Completed = subprocess.CompletedProcess[str]


def run(*command: object, check: bool = True, timeout: float = 600, **options: Any) -> Completed:
    """Run a command and return its exit code and output.

    Raises:
        AssertionError: the command failed and `check` is set; the message holds the end of its output.
    """
    completed = subprocess.run([*map(str, command)], text=True, capture_output=True, timeout=timeout, check=False, **options)
    assert not check or completed.returncode == 0, (
        f"{' '.join(map(str, command))}: exit code {completed.returncode}\n"
        f"{completed.stdout[-4000:]}\n{completed.stderr[-4000:]}"
    )
    return completed
