"""Memory of the OpenVINO backend, measured in a process of its own."""

from __future__ import annotations

import subprocess
import sys

from tests.support.paths import ROOT

PROGRAM = """
from pathlib import Path
import numpy as np
from core import Segmenter

segmenter = Segmenter("ddunet", "cpu", "openvino-int8")
sizes = [(height, width) for height in range(128, 257, 16) for width in range(200, 321, 8)]
resident = []
for size in sizes[:100]:
    segmenter.forward(np.zeros((1, *size, 3), np.uint8))
    resident.append(int(Path("/proc/self/statm").read_text().split()[1]) * 4096)
print((resident[99] - resident[39]) // 10**6)
"""


def test_new_input_sizes_do_not_take_memory_for_ever() -> None:
    output = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert int(output) < 80, f"60 further input sizes took {output.strip()} MB"
