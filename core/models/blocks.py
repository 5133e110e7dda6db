"""Building blocks that the architectures share: convolutions, input padding, and the U-shaped forward pass."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ConvBNReLU(nn.Sequential):
    """3x3 convolution without bias, batch norm, ReLU: (N, in_channels, H, W) to (N, out_channels, H, W), float."""

    def __init__(self, in_channels: int, out_channels: int, dilation: int = 1) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 3, padding=dilation, dilation=dilation, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )


class DoubleConv(nn.Sequential):
    """Two ConvBNReLU: (N, in_channels, H, W) to (N, out_channels, H, W), float.

    Source: Ronneberger et al. 2015 (U-Net), figure 1; here with padding that keeps the size.
    """

    def __init__(self, in_channels: int, out_channels: int, dilation: int = 1) -> None:
        super().__init__(ConvBNReLU(in_channels, out_channels, dilation), ConvBNReLU(out_channels, out_channels, dilation))


class SegmentationModel(nn.Module):
    """Base class of the architectures: accepts any input size and pads it to a multiple of `stride`.

    A subclass sets `stride`, the factor by which it downsamples, and implements `forward_padded`.
    """

    stride: int

    def forward_padded(self, x: Tensor) -> Tensor:
        """Compute logits (N, num_classes, H, W) from images (N, 3, H, W) float; H and W are multiples of `stride`."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits (N, num_classes, H, W) from normalized RGB images (N, 3, H, W) float; H and W from 1 up."""
        height, width = x.shape[-2:]
        bottom, right = -height % self.stride, -width % self.stride
        if bottom or right:
            # Replicated borders keep the padding in the range of real pixels. Reflection would need larger images.
            x = F.pad(x, (0, right, 0, bottom), mode="replicate")
        return self.forward_padded(x)[..., :height, :width]


class UNetBase(SegmentationModel):
    """An encoder with 2x2 max pooling, a decoder with upsampling and skip connections, and a 1x1 convolution as head.

    A subclass with L levels sets these modules; their names are part of the weight files.

    Attributes:
        encoder: L blocks, from the highest resolution to the lowest.
        up: L - 1 upsampling modules, from the lowest resolution to the highest.
        decoder: L - 1 blocks, in the same order.
        head: Convolution from the channels of the last block to the classes.
    """

    encoder: nn.ModuleList
    up: nn.ModuleList
    decoder: nn.ModuleList
    head: nn.Conv2d

    def forward_padded(self, x: Tensor) -> Tensor:
        """Compute logits (N, num_classes, H, W) from images (N, 3, H, W) float; H and W are multiples of `stride`."""
        skips: list[Tensor] = []
        for level, block in enumerate(self.encoder):
            x = block(F.max_pool2d(x, 2) if level else x)
            skips.append(x)
        skips.pop()  # the lowest level is the decoder's input
        for up, block in zip(self.up, self.decoder, strict=True):
            x = self.merge_skip(block, up(x), skips.pop())
        logits: Tensor = self.head(x)
        return logits

    def merge_skip(self, block: nn.Module, x: Tensor, skip: Tensor) -> Tensor:
        """Concatenate skip (N, A, H, W) and upsampled x (N, B, H, W) and apply the block: (N, A + B, H, W) to (N, C, H, W)."""
        merged: Tensor = block(torch.cat((skip, x), dim=1))
        return merged
