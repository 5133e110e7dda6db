"""A process that segments some photographs with one checkpoint and tells how much memory it came to need.

python -m training.comparison.peak CHECKPOINT DEVICE BACKEND HEIGHT WIDTH
"""

from __future__ import annotations

import json
import resource
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from core.inference.segmenter import Segmenter

PHOTOS = 3


@dataclass(frozen=True)
class Peak:
    """Megabytes (1e6 bytes): of the process, and of the GPU where it runs on one."""

    process_mb: float
    gpu_mb: float | None = None


def measure(checkpoint: str, device: str, backend: str, size: tuple[int, int]) -> Peak:
    """Segment noise of a size and look at the highest mark."""
    segmenter = Segmenter(checkpoint, device, backend)
    rng = np.random.default_rng(0)
    for _ in range(PHOTOS):
        segmenter(rng.integers(0, 256, (*size, 3), np.uint8))
    if not device.startswith("cuda"):
        return Peak(highest())
    import torch

    return Peak(highest(), torch.cuda.max_memory_allocated(device) / 1e6)


def highest() -> float:
    """The most memory that this process has had so far, in MB."""
    try:  # of this program alone: what getrusage tells begins with the parent's
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


if __name__ == "__main__":
    checkpoint, device, backend, height, width = sys.argv[1:]
    print(json.dumps(asdict(measure(checkpoint, device, backend, (int(height), int(width))))))
