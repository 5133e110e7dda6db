"""What a run goes on from: network, optimizer and generator as tensors, the place and the best score as a document."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from core.backends.torch_ import to_tensors
from core.tensorfile import Document, Tensors

KIND = "resume"


def pack(network: nn.Module, optimizer: Optimizer, epoch: int, best: float) -> tuple[Document, Tensors]:
    """Everything after `epoch` whole epochs, for a resume file."""
    tensors = {f"network.{name}": array for name, array in to_tensors(network).items()}
    slots = optimizer.state_dict()["state"]
    for index, slot in slots.items():
        tensors.update({f"optimizer.{index}.{key}": value.detach().cpu().numpy() for key, value in slot.items()})
    tensors["generator"] = torch.get_rng_state().numpy()
    return {"kind": KIND, "epoch": epoch, "step": 0, "best": best}, tensors


def unpack(document: Document, tensors: Tensors, network: nn.Module, optimizer: Optimizer) -> tuple[int, float]:
    """Put a resume file back into place; the number of whole epochs and the best score."""
    own = {name.removeprefix("network."): _tensor(a) for name, a in tensors.items() if name.startswith("network.")}
    network.load_state_dict(own)
    slots: dict[int, dict[str, Any]] = {}
    weights = list(network.parameters())
    for name, array in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".")
            value, weight = _tensor(array), weights[int(index)]
            # a fused step walks the memory: what goes with a channels-last weight must lie as it does
            slots.setdefault(int(index), {})[key] = torch.empty_like(weight).copy_(value) if value.ndim else value
    optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
    torch.set_rng_state(_tensor(tensors["generator"]))
    return int(document["epoch"]), float(document["best"])


def _tensor(array: Any) -> torch.Tensor:
    return torch.from_numpy(np.array(array))
