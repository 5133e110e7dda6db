"""Exponential moving average (EMA) of a network's weights, which `--ema` evaluates and serves instead of the weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class ModelEma:
    """A copy of a network whose floating-point parameters and buffers are exponential moving averages; others are copied.

    The decay after n updates is min(`decay`, (1 + n) / (10 + n)), so the initial weights lose their influence early. All
    tensors stay on the device and the update count on the host: an update never synchronizes the two.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network)
        self.decay = decay
        self.updates = 0
        averages, sources = self.network.state_dict(), network.state_dict()
        self._pairs = [(averages[name], sources[name]) for name in averages]  # (average, tensor that it follows)

    @torch.no_grad()
    def update(self) -> None:
        """Update the averages after an optimizer step."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        float_pairs = [pair for pair in self._pairs if pair[0].is_floating_point()]
        averages: list[Tensor] = [average for average, _ in float_pairs]
        torch._foreach_lerp_(averages, [source for _, source in float_pairs], 1 - decay)
        for average, source in self._pairs:
            if not average.is_floating_point():
                average.copy_(source)
