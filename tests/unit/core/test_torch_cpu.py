"""Tests of core.backends.torch_cpu; test_segmenter.py covers it as the default backend of a checkpoint."""

from __future__ import annotations

import numpy as np
import torch

from core.backends.torch_cpu import TorchBackend
from core.images.resize import Preprocess
from core.inference.upsample import upsample_argmax
from core.models import build_model


def test_upsample_argmax_accepts_tensors() -> None:
    """A worker of another device may hand over logits as tensors."""
    backend = TorchBackend(build_model("ddunet", base_channels=4).eval(), Preprocess())
    logits = torch.randn(19, 48, 64, generator=torch.Generator().manual_seed(0))
    assert np.array_equal(backend.upsample_argmax(logits, (90, 120)), upsample_argmax(logits.numpy(), (90, 120)))
