"""R2U-Net: a U-Net of recurrent residual blocks.

Source: Alom et al. 2018, "Recurrent Residual Convolutional Neural Network based on U-Net (R2U-Net) for Medical Image
Segmentation", sections III.A-B and figure 4d.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from core.models.blocks import ConvBNReLU, UNetBase


class RecurrentLayer(nn.Module):
    """One shared 3x3 convolution applied t=2 times, with the input added before the second application.

    Each application has a separate batch norm: shared running statistics would mix two distributions, and such a
    network collapses in evaluation mode (Cooijmans et al. 2017, "Recurrent Batch Normalization", section 3).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) float to the same shape."""
        first = F.relu(self.norms[0](self.conv(x)))
        return F.relu(self.norms[1](self.conv(x + first)))


class RecurrentResidualBlock(nn.Module):
    """A ConvBNReLU followed by two recurrent layers with a residual connection around them.

    With `checkpoint_activations`, training stores only the input of the block and recomputes its activations in the
    backward pass: the same gradients with half the memory and a quarter more time.
    """

    checkpoint_activations = False

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.stem = ConvBNReLU(in_channels, out_channels)
        self.layers = nn.Sequential(RecurrentLayer(out_channels), RecurrentLayer(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) float to (N, out_channels, H, W)."""
        if self.checkpoint_activations and self.training:
            norms = [module for module in self.modules() if isinstance(module, _BatchNorm)]
            output: Tensor = checkpoint(
                self._forward, x, use_reentrant=False, context_fn=lambda: (nullcontext(), _preserve_bn_stats(norms))
            )
            return output
        return self._forward(x)

    def _forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        residual: Tensor = self.layers(x)
        return x + residual


@contextmanager
def _preserve_bn_stats(norms: list[_BatchNorm]) -> Iterator[None]:
    """Make batch norms update copies of their buffers: the recomputed forward pass must not count a batch twice."""
    saved = [dict(norm._buffers) for norm in norms]
    for norm, buffers in zip(norms, saved, strict=True):
        norm._buffers.update({name: None if b is None else b.clone() for name, b in buffers.items()})
    try:
        yield
    finally:
        for norm, buffers in zip(norms, saved, strict=True):
            norm._buffers.update(buffers)


class R2UNet(UNetBase):
    """R2U-Net with `base_channels` to 16 * `base_channels` channels; 49,546,771 parameters at 64 and 19 classes.

    Each decoder block halves the channels, and the skip connection is added to its output instead of concatenated.
    """

    stride = 16

    def __init__(self, num_classes: int = 19, base_channels: int = 64) -> None:
        super().__init__()
        channels = [base_channels * 2**level for level in range(5)]
        self.encoder = nn.ModuleList(RecurrentResidualBlock(a, b) for a, b in zip([3, *channels], channels, strict=False))
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * c, 2 * c, 2, stride=2) for c in reversed(channels[:-1]))
        self.decoder = nn.ModuleList(RecurrentResidualBlock(2 * c, c) for c in reversed(channels[:-1]))
        self.head = nn.Conv2d(base_channels, num_classes, 1)

    def merge_skip(self, block: nn.Module, x: Tensor, skip: Tensor) -> Tensor:
        """Apply the block to the upsampled x (N, 2C, H, W) and add the skip (N, C, H, W): (N, C, H, W)."""
        merged: Tensor = block(x) + skip
        return merged
