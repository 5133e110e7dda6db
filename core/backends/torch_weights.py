"""Weights between checkpoints and PyTorch networks: build, check, load, extract."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

import numpy as np
import torch
from torch import Tensor, nn

from core.checkpoints.checkpoint import Checkpoint
from core.checkpoints.safetensors_io import Tensors
from core.errors import CheckpointError
from core.models import MODELS, build_model

HEAD = "head."  # prefix of the names of the last layer's weights, whose shapes depend on the number of classes


def load_network(checkpoint: Checkpoint) -> nn.Module:
    """Return the checkpoint's network on the CPU in fp32, in evaluation mode. Raises CheckpointError."""
    check_weights(checkpoint)  # before memory is allocated for an architecture that the file only claims to hold
    network = _build(checkpoint).eval()
    load_weights(network, checkpoint)
    return network


def load_weights(network: nn.Module, checkpoint: Checkpoint, reset_head: bool = False) -> list[str]:
    """Load a checkpoint's weights into a network, in place; names and shapes must match exactly.

    With `reset_head`, the tensors of the head keep the values that they have in `network`, so that it can have other
    classes than the checkpoint. Returns the names of these tensors. Raises CheckpointError that names the first tensor
    that is missing, unknown or of another shape.
    """
    state = network.state_dict()
    kept = {name for name in state if reset_head and name.startswith(HEAD)}
    _require_fit(state, checkpoint, kept)
    loaded = {name: torch.from_numpy(np.array(array)) for name, array in checkpoint.tensors.items() if name not in kept}
    network.load_state_dict({**state, **loaded})
    return sorted(kept)


def check_weights(checkpoint: Checkpoint) -> None:
    """Raise CheckpointError if the weights do not fit their architecture; allocates no memory for the network."""
    with torch.device("meta"):
        _require_fit(_build(checkpoint).state_dict(), checkpoint)


def state_dict_numpy(network: nn.Module) -> Tensors:
    """Return the parameters and buffers of a network as arrays for a checkpoint."""
    return {name: value.detach().cpu().numpy() for name, value in network.state_dict().items()}


def _build(checkpoint: Checkpoint) -> nn.Module:
    """Return a network of the checkpoint's architecture with initial weights."""
    architecture = checkpoint.metadata.architecture
    if architecture.name not in MODELS:
        raise CheckpointError(
            f"{checkpoint.path}: unknown architecture {architecture.name!r}; this version supports {', '.join(MODELS)}"
        )
    return build_model(architecture.name, len(checkpoint.metadata.labels), architecture.width)


def _require_fit(state: dict[str, Tensor], checkpoint: Checkpoint, any_shape: AbstractSet[str] = frozenset()) -> None:
    """Raise CheckpointError if the names or shapes in `state` differ from the checkpoint's; `any_shape` may differ in shape."""
    tensors = checkpoint.tensors
    reshaped = {name for name in state.keys() & tensors.keys() if state[name].shape != tensors[name].shape}
    problems = (
        *(f"{name} is missing" for name in sorted(state.keys() - tensors.keys())),
        *(f"{name} is unknown" for name in sorted(tensors.keys() - state.keys())),
        *(f"{n} is {list(tensors[n].shape)}, expected {list(state[n].shape)}" for n in sorted(reshaped - any_shape)),
    )
    if problems:
        more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise CheckpointError(f"{checkpoint.path}: the weights do not fit the architecture: {problems[0]}{more}")
