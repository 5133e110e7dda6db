"""Network architectures by name. To add one, add a file here and a line to MODELS."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from core.errors import InputError

if TYPE_CHECKING:
    from core.models.blocks import SegmentationModel

# Name to "module:class", imported at the first use: commands list the names without importing torch.
MODELS: dict[str, str | type[SegmentationModel]] = {
    "unet": "core.models.unet:UNet",
    "r2unet": "core.models.r2unet:R2UNet",
    "ddunet": "core.models.ddunet:DDUNet",
}


def model_class(name: str) -> type[SegmentationModel]:
    """Return the class of an architecture.

    Raises:
        InputError: The name is unknown; the message lists the known ones.
    """
    if name not in MODELS:
        raise InputError(f"unknown model {name!r}; known: {', '.join(MODELS)}")
    entry = MODELS[name]
    if isinstance(entry, str):
        module, class_name = entry.split(":")
        model: type[SegmentationModel] = getattr(import_module(module), class_name)
        return model
    return entry


def build_model(name: str, num_classes: int = 19, base_channels: int = 64) -> SegmentationModel:
    """Build a network with newly initialized weights that maps images (N, 3, H, W) to logits (N, num_classes, H, W).

    Args:
        name: A key of MODELS.
        num_classes: Number of classes.
        base_channels: Channels of the first level (`--width`); 16 channels have a sixteenth of the weights of 64.

    Raises:
        InputError: The name is unknown; the message lists the known ones.
    """
    return model_class(name)(num_classes=num_classes, base_channels=base_channels)
