"""Describe the environment in which benchmarks and soak tests ran."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime

import torch

from training.comparison.summary import processor_name


def environment_info() -> str:
    """Return CPU, operating system, library versions and today's date in one line."""
    versions = f"{platform.system()}, Python {platform.python_version()}, torch {torch.__version__}"
    return f"{os.cpu_count()} cores of {processor_name()}, {versions}, {datetime.now(UTC):%Y-%m-%d}"
