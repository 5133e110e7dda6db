"""Test of the torch-compiled back end with a whole network, whose compilation takes most of a minute."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from core.inference.segmenter import Segmenter

needs_compiler = pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")), reason="torch.compile needs g++ or clang++; .ci/run installs g++"
)


@needs_compiler
def test_compiled_network_keeps_masks(checkpoint: Path) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    compiled, eager = (Segmenter(checkpoint, device, backend) for backend in ("torch-compiled", "torch"))
    assert compiled.backend.name == "torch-compiled"
    for size in ((64, 64), (50, 90)):
        image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
        assert np.mean(compiled(image).labels == eager(image).labels) >= 0.999
