"""Tests of training.engine.step."""

from __future__ import annotations

import copy

import torch

from core.images.resize import Preprocess
from core.models import build_model
from training.data.loader import Batch
from training.distributed.context import DistributedContext
from training.engine.losses import SegmentationLoss
from training.engine.step import EpochAccumulators, TrainStep


def test_infinite_loss_skips_update() -> None:
    """The gradients of such a loss can be finite, so checking them is not enough."""
    network = build_model("ddunet", 5, 2).train()
    with torch.no_grad():
        network.head.bias[0] = 1e36
    optimizer = torch.optim.Adam(network.parameters(), fused=True)
    step = TrainStep(network, network, optimizer, SegmentationLoss("ce", None, 1), DistributedContext(), Preprocess())
    sums = EpochAccumulators(5, torch.device("cpu"))
    before = copy.deepcopy(network.state_dict())
    step(Batch(torch.zeros(2, 16, 16, 3, dtype=torch.uint8), torch.ones(2, 16, 16, dtype=torch.uint8)), sums)
    assert torch.isinf(sums.loss_sums[0]) and all(torch.isfinite(p.grad).all() for p in network.parameters())
    assert all(torch.equal(before[name], p) for name, p in network.named_parameters())
    assert (step.steps_run, int(step.updates_applied)) == (1, 0)
