"""U-Net: five levels of convolution pairs joined by concatenated skips (Ronneberger et al. 2015, figure 1)."""

from __future__ import annotations

from torch import nn

from core.models.blocks import ConvPair, UShaped


class UNet(UShaped):
    """Differs from the paper as the family does: padded convolutions, batch norm, bilinear upsampling that keeps its
    channels. At width 64 and 19 classes: 31,386,003 parameters."""

    stride = 16

    def __init__(self, num_classes: int = 19, width: int = 64) -> None:
        super().__init__()
        sizes = [width * 2**level for level in range(5)]
        self.encoder = nn.ModuleList(ConvPair(a, b) for a, b in zip([3, *sizes], sizes, strict=False))
        self.up = nn.ModuleList(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False) for _ in sizes[:-1])
        self.decoder = nn.ModuleList(ConvPair(2 * c + c, c) for c in reversed(sizes[:-1]))
        self.head = nn.Conv2d(width, num_classes, 1)
