"""Tests of training.engine.network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from training.engine.network import use_bf16

CPU = torch.device("cpu")


def test_precision_overrides_hardware() -> None:
    assert use_bf16("bf16", CPU) and not use_bf16("fp32", CPU)


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="reads the CPU's features from /proc")
def test_auto_uses_bf16_if_cpu_has_bf16_units() -> None:
    flags = Path("/proc/cpuinfo").read_text().split()
    assert use_bf16("auto", CPU) == ("avx512_bf16" in flags or "amx_tile" in flags)
