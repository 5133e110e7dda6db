"""DDU-Net: a U-Net with four levels whose deeper convolutions are dilated.

Source of the dilated convolutions: Yu and Koltun 2016, "Multi-Scale Context Aggregation by Dilated Convolutions",
section 2.
"""

from __future__ import annotations

from torch import nn

from core.models.blocks import DoubleConv, UNetBase


class DDUNet(UNetBase):
    """Dilated U-Net with `base_channels` to 8 * `base_channels` channels; 10,802,451 parameters at 64 and 19 classes.

    The dilation is 1, 1, 3, 3 in the encoder and 3, 1, 1 in the decoder.
    """

    stride = 8

    def __init__(self, num_classes: int = 19, base_channels: int = 64) -> None:
        super().__init__()
        channels = [base_channels * 2**level for level in range(4)]
        encoder = zip([3, *channels], channels, (1, 1, 3, 3), strict=False)
        self.encoder = nn.ModuleList(DoubleConv(a, b, dilation) for a, b, dilation in encoder)
        # Both kernel 3 with padding 1 and kernel 2 without padding double the size exactly, from 1x1 up.
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(2 * c, 2 * c, kernel, stride=2, padding=padding, output_padding=padding)
            for c, kernel, padding in zip(reversed(channels[:-1]), (3, 3, 2), (1, 1, 0), strict=True)
        )
        self.decoder = nn.ModuleList(
            DoubleConv(2 * c + c, c, dilation) for c, dilation in zip(reversed(channels[:-1]), (3, 1, 1), strict=True)
        )
        self.head = nn.Conv2d(base_channels, num_classes, 1)
