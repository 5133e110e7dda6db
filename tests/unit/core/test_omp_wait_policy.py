"""Tests of core/__init__.py: torch's OpenMP threads sleep at barriers unless the user specifies otherwise."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(("user_policy", "expected"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_wait_policy_that_openmp_reports(user_policy: str | None, expected: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment["OMP_DISPLAY_ENV"] = "TRUE"  # OpenMP prints its settings when it is loaded.
    if user_policy:
        environment["OMP_WAIT_POLICY"] = user_policy
    program = "import core, torch"
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert f"OMP_WAIT_POLICY = '{expected}'" in done.stderr
