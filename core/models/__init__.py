"""The architectures by name; a new one is a file beside this one and a line in MODELS."""

from __future__ import annotations

from core.errors import InputError
from core.models.blocks import Network
from core.models.ddunet import DDUNet
from core.models.r2unet import R2UNet
from core.models.unet import UNet

MODELS: dict[str, type[Network]] = {
    "unet": UNet,
    "r2unet": R2UNet,
    "ddunet": DDUNet,
}


__all__ = ["MODELS", "Network", "build_model"]


def build_model(name: str, num_classes: int = 19, width: int = 64) -> Network:
    """Build an architecture with fresh weights: (N, 3, H, W) float, any H and W, to logits (N, num_classes, H, W).

    `width` is the number of channels of the first level; 16 has a sixteenth of the weights of 64.
    Raises InputError for an unknown name, listing the known ones.
    """
    if name not in MODELS:
        raise InputError(f"unknown model {name!r}; known: {', '.join(MODELS)}")
    return MODELS[name](num_classes=num_classes, width=width)
