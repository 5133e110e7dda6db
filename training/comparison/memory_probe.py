"""Measure the peak memory of inference; runs as a process of its own, so that nothing else is included.

python -m training.comparison.memory_probe CHECKPOINT DEVICE BACKEND HEIGHT WIDTH

This module must not import torch: a back end may not need it, and it takes hundreds of megabytes.
"""

from __future__ import annotations

import json
import resource
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from core.images.resize import Size
from core.inference.segmenter import Segmenter

IMAGES = 3


@dataclass(frozen=True)
class PeakMemory:
    """Peak memory in MB (1e6 bytes) of the process and, if it uses one, of the GPU."""

    process_mb: float
    gpu_mb: float | None = None


def measure_peak_memory(checkpoint: str, device: str, backend: str, size: Size) -> PeakMemory:
    """Segment random images of `size` (height, width) and return the peak memory of this process."""
    segmenter = Segmenter(checkpoint, device, backend)
    rng = np.random.default_rng(0)
    for _ in range(IMAGES):
        segmenter(rng.integers(0, 256, (*size, 3), np.uint8))
    if not device.startswith("cuda"):
        return PeakMemory(peak_rss_mb())
    import torch

    return PeakMemory(peak_rss_mb(), torch.cuda.max_memory_allocated(device) / 1e6)


def peak_rss_mb() -> float:
    """Return the peak resident set size of this process in MB."""
    try:  # VmHWM starts at exec; the value of getrusage would include the memory of the parent process
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


if __name__ == "__main__":
    checkpoint, device, backend, height, width = sys.argv[1:]
    print(json.dumps(asdict(measure_peak_memory(checkpoint, device, backend, (int(height), int(width))))))
