"""The network of a checkpoint in the form that converters trace."""

from __future__ import annotations

import torch
from torch import nn

from core.backends.torch_weights import load_network
from core.checkpoints.checkpoint import Checkpoint


class NetworkWithoutPadding(nn.Module):
    """A network without its padding, which depends on the size it is traced with; the back ends pad instead."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        self.network = load_network(checkpoint)
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map inputs (N, 3, H, W), H and W multiples of the stride, to logits (N, K, H, W)."""
        logits: torch.Tensor = self.network.forward_padded(x)  # type: ignore[operator]
        return logits
