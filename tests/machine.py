"""What figures and logs were made on, and when."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from pathlib import Path

import torch


def machine() -> str:
    """Processor, system, versions and the day."""
    names = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    system = f"{platform.system()}, Python {platform.python_version()}, torch {torch.__version__}"
    return f"{len(names)} cores of {names[0]}, {system}, {datetime.now(UTC):%Y-%m-%d}"
