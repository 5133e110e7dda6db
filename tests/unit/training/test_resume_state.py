"""Tests of training.engine.resume_state: the optimizer's state does not depend on its parameter groups."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import Adam, Optimizer

from core.models import build_model
from training.distributed.context import DistributedContext
from training.engine.optimizer import build_optimizer
from training.engine.resume_state import TrainingProgress, TrainState, pack, unpack
from training.engine.step import EpochAccumulators

CONTEXT = DistributedContext()


def make_network() -> nn.Module:
    return build_model("ddunet", 5, 2).to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return make_network()


def step_with_random_gradients(network: nn.Module, optimizer: Optimizer, seed: int) -> None:
    torch.manual_seed(seed)
    for parameter in network.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()


def train_state(network: nn.Module, optimizer: Optimizer) -> TrainState:
    return TrainState(network, optimizer, None, EpochAccumulators(5, torch.device("cpu")))


def assert_next_step_is_equal(original: tuple[nn.Module, Optimizer], restored: tuple[nn.Module, Optimizer]) -> None:
    for network, optimizer in (original, restored):
        step_with_random_gradients(network, optimizer, seed=3)
    for expected, parameter in zip(original[0].parameters(), restored[0].parameters(), strict=True):
        assert torch.equal(parameter, expected)


def test_state_of_one_parameter_group_is_restored(network: nn.Module) -> None:
    """Schema version 1 numbered the state by the position of the parameter in a single group."""
    optimizer = Adam(network.parameters(), lr=1e-3, fused=True)
    for seed in (1, 2):
        step_with_random_gradients(network, optimizer, seed)
    document, tensors = pack(TrainingProgress(environment={"world_size": 1}), train_state(network, optimizer), CONTEXT)
    for index, values in optimizer.state_dict()["state"].items():
        for key, value in values.items():
            assert np.array_equal(tensors[f"optimizer.{index}.{key}"], value.numpy())

    restored_network = make_network()
    restored_optimizer = build_optimizer(restored_network, 1e-3, weight_decay=0)
    unpack(document, tensors, train_state(restored_network, restored_optimizer), CONTEXT)
    for (name, restored), original in zip(restored_network.named_parameters(), network.parameters(), strict=True):
        for key, value in optimizer.state[original].items():
            assert torch.equal(restored_optimizer.state[restored][key], value), f"{name} {key}"
    assert_next_step_is_equal((network, optimizer), (restored_network, restored_optimizer))


def test_state_of_two_parameter_groups_is_restored(network: nn.Module) -> None:
    optimizer = build_optimizer(network, 1e-3, weight_decay=0.5)
    step_with_random_gradients(network, optimizer, seed=1)
    document, tensors = pack(TrainingProgress(environment={"world_size": 1}), train_state(network, optimizer), CONTEXT)
    restored_network = copy.deepcopy(network)
    restored_optimizer = build_optimizer(restored_network, 1e-3, weight_decay=0.5)
    unpack(document, tensors, train_state(restored_network, restored_optimizer), CONTEXT)
    assert_next_step_is_equal((network, optimizer), (restored_network, restored_optimizer))
