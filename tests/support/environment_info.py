"""What figures and logs were made on, and when."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime

import torch

from training.comparison.summary import processor


def machine() -> str:
    """Processor, system, versions and the day."""
    system = f"{platform.system()}, Python {platform.python_version()}, torch {torch.__version__}"
    return f"{os.cpu_count()} cores of {processor()}, {system}, {datetime.now(UTC):%Y-%m-%d}"
