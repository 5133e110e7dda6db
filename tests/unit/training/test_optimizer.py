"""Tests of training.engine.optimizer: weight decay and its parameter groups."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from core.models import build_model
from training.engine.optimizer import build_optimizer


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return build_model("ddunet", 5, 2)


def test_weight_decay_excludes_norms_and_biases(network: nn.Module) -> None:
    before = copy.deepcopy(dict(network.named_parameters()))
    optimizer = build_optimizer(network, learning_rate=0.1, weight_decay=0.5)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in network.named_parameters():
        factor = 0.95 if parameter.dim() > 1 else 1.0
        assert torch.allclose(parameter, factor * before[name], rtol=1e-6), name
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms and all(bool((norm.weight == 1).all()) for norm in norms)


def test_every_parameter_is_in_one_group(network: nn.Module) -> None:
    groups = build_optimizer(network, 1e-3, 0.5).param_groups
    assert [group["weight_decay"] for group in groups] == [0.5, 0]
    grouped = [id(p) for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in network.parameters())
