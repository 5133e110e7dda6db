"""A moving average of the weights: what is evaluated and served where --ema asks for it."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class Average:
    """A copy of a network whose floating-point tensors follow it slowly; the others are copied.

    The decay begins small, (1 + n) / (10 + n) after n updates, so that the fresh weights are soon forgotten. All on the
    device, and the count on the host: no update makes the host wait.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network)
        self.decay = decay
        self.updates = 0
        own, theirs = self.network.state_dict(), network.state_dict()
        self._pairs = [(own[name], theirs[name]) for name in own]

    @torch.no_grad()
    def update(self) -> None:
        """Follow the network after a step."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        floats = [pair for pair in self._pairs if pair[0].is_floating_point()]
        averages: list[Tensor] = [own for own, _ in floats]
        torch._foreach_lerp_(averages, [theirs for _, theirs in floats], 1 - decay)
        for own, theirs in self._pairs:
            if not own.is_floating_point():
                own.copy_(theirs)
