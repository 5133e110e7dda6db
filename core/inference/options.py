"""Options that determine how the network is applied to an image."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class InferenceOptions:
    """How an image passes through the network.

    `tiled` False resizes the image to the network's input size; True keeps its native resolution and slides a window
    of that size over it. `hflip_tta` (test-time augmentation) averages the logits of the image and of its horizontally
    flipped copy, which takes twice the time.
    """

    tiled: bool = False
    hflip_tta: bool = False


DEFAULT_OPTIONS = InferenceOptions()
