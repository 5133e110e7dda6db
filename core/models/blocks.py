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


class UShaped(Network):
    """The U: blocks joined by 2x2 max pooling on the way down, upsampling and skips on the way up, a 1x1 head.

    A subclass makes `encoder` (L blocks), `up` and `decoder` (L - 1 each, deepest first) and `head`.
    """

    encoder: nn.ModuleList
    up: nn.ModuleList
    decoder: nn.ModuleList
    head: nn.Conv2d

    def segment(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) float to logits (N, classes, H, W); H and W multiples of `stride`."""
        skips: list[Tensor] = []
        for level, block in enumerate(self.encoder):
            x = block(F.max_pool2d(x, 2) if level else x)
            skips.append(x)
        skips.pop()
        for up, block in zip(self.up, self.decoder, strict=True):
            x = self.join(block, up(x), skips.pop())
        logits: Tensor = self.head(x)
        return logits

    def join(self, block: nn.Module, x: Tensor, skip: Tensor) -> Tensor:
        """A step of the way up: skip (N, A, H, W) and x (N, B, H, W) side by side by channels, through the block."""
        joined: Tensor = block(torch.cat((skip, x), dim=1))
        return joined
