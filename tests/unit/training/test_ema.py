"""Tests of training.engine.ema."""

from __future__ import annotations

import pytest
import torch

from training.engine.ema import ModelEma


def test_update_follows_definition() -> None:
    network = torch.nn.BatchNorm1d(1)
    ema, expected = ModelEma(network, decay=0.5), 1.0
    for update in range(12):
        network.weight.data.fill_(update)
        network.num_batches_tracked.fill_(update)
        ema.update()
        decay = min(0.5, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * update
        assert ema.network.weight.item() == pytest.approx(expected)
        assert int(ema.network.num_batches_tracked) == update  # Integers are copied.
