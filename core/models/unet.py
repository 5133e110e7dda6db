"""U-Net: five levels of double convolutions with concatenated skip connections.

Source: Ronneberger et al. 2015, "U-Net: Convolutional Networks for Biomedical Image Segmentation", section 2, figure 1.
"""

from __future__ import annotations

from torch import nn

from core.models.blocks import DoubleConv, UNetBase


class UNet(UNetBase):
    """U-Net with `base_channels` to 16 * `base_channels` channels; 31,386,003 parameters at 64 and 19 classes.

    It deviates from the paper: padded convolutions, batch norm, and bilinear upsampling that keeps the channels.
    """

    stride = 16

    def __init__(self, num_classes: int = 19, base_channels: int = 64) -> None:
        super().__init__()
        channels = [base_channels * 2**level for level in range(5)]
        self.encoder = nn.ModuleList(DoubleConv(a, b) for a, b in zip([3, *channels], channels, strict=False))
        self.up = nn.ModuleList(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False) for _ in channels[:-1])
        self.decoder = nn.ModuleList(DoubleConv(2 * c + c, c) for c in reversed(channels[:-1]))
        self.head = nn.Conv2d(base_channels, num_classes, 1)
