"""The optimizer: Adam with decoupled weight decay (AdamW)."""

from __future__ import annotations

from torch import nn
from torch.optim import Adam


def build_optimizer(network: nn.Module, learning_rate: float, weight_decay: float) -> Adam:
    """Return a fused Adam with two parameter groups; weight decay applies to tensors with more than one dimension only.

    Biases and the scales and shifts of batch norm are not decayed: they do not make the network more complex, and decay
    would pull the scales of batch norm towards zero.

    Source: Loshchilov and Hutter 2019, algorithm 2 (decay of the weights, not of the gradients).
    """
    parameters = list(network.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return Adam([group for group in groups if group["params"]], lr=learning_rate, decoupled_weight_decay=True, fused=True)
