"""What a network has and does, counted without memory and without arithmetic, on torch's meta device."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from core.checkpoints.checkpoint import Architecture
from core.images.resize import Size
from core.models import build_model


def parameters(architecture: Architecture, classes: int) -> int:
    """How many weights there are; those of a layer that is applied several times count once."""
    return sum(p.numel() for p in _network(architecture, classes).parameters())


def gflop(architecture: Architecture, classes: int, size: Size) -> float:
    """Floating-point operations of one picture of `size` (height, width), in 1e9: a multiplication and an addition are two."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        _network(architecture, classes).eval()(torch.empty(1, 3, *size))
    return float(counter.get_total_flops()) / 1e9


def saved_bytes(architecture: Architecture, classes: int, size: Size) -> float:
    """Bytes in fp32 of what a training step keeps of one picture of `size` (height, width) for its backward pass.

    What kernels need beside it is not in it, nor the loss.
    """
    kept: dict[int, Tensor] = {}  # by their memory, which several views can share

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    pictures = 2  # one of them alone might be one value for a batch norm
    network = _network(architecture, classes).train()
    with torch.device("meta"), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(torch.empty(pictures, 3, *size))
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) / pictures


def _network(architecture: Architecture, classes: int) -> nn.Module:
    with torch.device("meta"):
        return build_model(architecture.name, classes, architecture.width)
