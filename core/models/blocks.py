"""Building blocks that the architectures share: the convolution unit, the skip connection and the input padding."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ConvUnit(nn.Sequential):
    """3x3 convolution without bias -> batch norm -> ReLU: (N, inputs, H, W) to (N, outputs, H, W), float."""

    def __init__(self, inputs: int, outputs: int, dilation: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, padding=dilation, dilation=dilation, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )


class ConvPair(nn.Sequential):
    """Two convolution units; the pair of the U-Net paper (Ronneberger et al. 2015, figure 1), padded to keep the size."""

    def __init__(self, inputs: int, outputs: int, dilation: int = 1) -> None:
        super().__init__(ConvUnit(inputs, outputs, dilation), ConvUnit(outputs, outputs, dilation))


class Network(nn.Module):
    """Base of every architecture: takes any input size and pads it to `stride`, which a subclass sets.

    A subclass implements `segment`: (N, 3, H, W) float, H and W multiples of `stride`, to logits (N, classes, H, W).
    """

    stride: int

    def segment(self, x: Tensor) -> Tensor:
        """What a subclass implements."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) float, normalised RGB, any H and W from 1 up, to logits (N, classes, H, W)."""
        height, width = x.shape[-2:]
        bottom, right = -height % self.stride, -width % self.stride
        if bottom or right:
            # repeating the border keeps a padded pixel in the range of real ones, at any size (reflection needs more)
            x = F.pad(x, (0, right, 0, bottom), mode="replicate")
        return self.segment(x)[..., :height, :width]


def concatenate(skip: Tensor, x: Tensor) -> Tensor:
    """Skip connection by channels: (N, A, H, W) and (N, B, H, W) to (N, A + B, H, W)."""
    return torch.cat((skip, x), dim=1)
