"""Tests of core.backends.torch_weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from core.backends.torch_weights import load_weights
from core.checkpoints.checkpoint import read_checkpoint
from core.models import build_model


def test_load_weights_resets_head_of_same_size(checkpoint: Path) -> None:
    torch.manual_seed(1)
    network = build_model("ddunet", 19, 4)
    reset = load_weights(network, read_checkpoint(checkpoint), reset_head=True)
    tensors = read_checkpoint(checkpoint).tensors
    assert reset == ["head.bias", "head.weight"]
    assert not np.array_equal(network.state_dict()["head.weight"].numpy(), tensors["head.weight"])
    assert np.array_equal(network.state_dict()["encoder.0.0.0.weight"].numpy(), tensors["encoder.0.0.0.weight"])
