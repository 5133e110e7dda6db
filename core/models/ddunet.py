"""DDU-Net: a U-Net of four levels whose deeper convolutions are dilated (dilation after Yu and Koltun 2016, section 2)."""

from __future__ import annotations

from torch import nn

from core.models.blocks import ConvPair, UShaped


class DDUNet(UShaped):
    """Dilation 1, 1, 3, 3 on the way down and 3, 1, 1 up. At width 64 and 19 classes: 10,802,451 parameters."""

    stride = 8

    def __init__(self, num_classes: int = 19, width: int = 64) -> None:
        super().__init__()
        sizes = [width * 2**level for level in range(4)]
        down = zip([3, *sizes], sizes, (1, 1, 3, 3), strict=False)
        self.encoder = nn.ModuleList(ConvPair(a, b, dilation) for a, b, dilation in down)
        # kernel 3 with padding 1 and kernel 2 without both give exactly twice the size, from 1x1 up
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(2 * c, 2 * c, kernel, stride=2, padding=padding, output_padding=padding)
            for c, kernel, padding in zip(reversed(sizes[:-1]), (3, 3, 2), (1, 1, 0), strict=True)
        )
        self.decoder = nn.ModuleList(
            ConvPair(2 * c + c, c, dilation) for c, dilation in zip(reversed(sizes[:-1]), (3, 1, 1), strict=True)
        )
        self.head = nn.Conv2d(width, num_classes, 1)
