"""U-Net: five levels of convolution pairs joined by concatenated skips (Ronneberger et al. 2015, figure 1)."""

from __future__ import annotations

from torch import Tensor, nn

from core.models.blocks import ConvPair, Network, concatenate


class UNet(Network):
    """Differs from the paper as the family does: padded convolutions, batch norm, bilinear upsampling that keeps its
    channels. At width 64 and 19 classes: 31,386,003 parameters."""

    stride = 16

    def __init__(self, num_classes: int = 19, width: int = 64) -> None:
        super().__init__()
        sizes = [width * 2**level for level in range(5)]
        self.encoder = nn.ModuleList(ConvPair(a, b) for a, b in zip([3, *sizes], sizes, strict=False))
        self.pool = nn.MaxPool2d(2)
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        self.decoder = nn.ModuleList(ConvPair(2 * c + c, c) for c in reversed(sizes[:-1]))
        self.head = nn.Conv2d(width, num_classes, 1)

    def segment(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) float to logits (N, classes, H, W); H and W multiples of `stride`."""
        skips: list[Tensor] = []
        for level, pair in enumerate(self.encoder):
            x = pair(x if level == 0 else self.pool(x))
            skips.append(x)
        skips.pop()
        for pair in self.decoder:
            x = pair(concatenate(skips.pop(), self.up(x)))
        logits: Tensor = self.head(x)
        return logits
