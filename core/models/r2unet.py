"""R2U-Net: a U-Net of recurrent residual blocks (Alom et al. 2018, sections III.A-B and figure 4d)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from core.models.blocks import ConvUnit, UShaped


class RecurrentLayer(nn.Module):
    """One shared 3x3 convolution applied t=2 times, its input added before the second: (N, C, H, W) to the same.

    Each application has a batch norm of its own: shared statistics would mix two distributions, and such a network
    is known to collapse at evaluation (Cooijmans et al. 2017, section 3).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        first = F.relu(self.norms[0](self.conv(x)))
        return F.relu(self.norms[1](self.conv(x + first)))


@contextmanager
def _statistics_aside(norms: list[_BatchNorm]) -> Iterator[None]:
    """Let batch norms count into copies: a batch that goes through twice is one batch to the running statistics."""
    own = [dict(norm._buffers) for norm in norms]
    for norm, buffers in zip(norms, own, strict=True):
        norm._buffers.update({name: None if b is None else b.clone() for name, b in buffers.items()})
    try:
        yield
    finally:
        for norm, buffers in zip(norms, own, strict=True):
            norm._buffers.update(buffers)


class RecurrentResidualBlock(nn.Module):
    """A convolution unit whose output is added to that of two recurrent layers on it: (N, A, H, W) to (N, B, H, W).

    With `recompute` training keeps only the block's input and runs it again in the backward pass: the same gradients for
    half the memory and a quarter more time.
    """

    recompute = False

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.enter = ConvUnit(inputs, outputs)
        self.layers = nn.Sequential(RecurrentLayer(outputs), RecurrentLayer(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(N, A, H, W) to (N, B, H, W)."""
        if self.recompute and self.training:
            norms = [module for module in self.modules() if isinstance(module, _BatchNorm)]
            again: Tensor = checkpoint(
                self._run, x, use_reentrant=False, context_fn=lambda: (nullcontext(), _statistics_aside(norms))
            )
            return again
        return self._run(x)

    def _run(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        residual: Tensor = self.layers(x)
        return x + residual


class R2UNet(UShaped):
    """Five levels 64..1024; each decoder block maps 2c to c channels and the skip is added to its output.

    At width 64 and 19 classes: 49,546,771 parameters.
    """

    stride = 16

    def __init__(self, num_classes: int = 19, width: int = 64) -> None:
        super().__init__()
        sizes = [width * 2**level for level in range(5)]
        self.encoder = nn.ModuleList(RecurrentResidualBlock(a, b) for a, b in zip([3, *sizes], sizes, strict=False))
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * c, 2 * c, 2, stride=2) for c in reversed(sizes[:-1]))
        self.decoder = nn.ModuleList(RecurrentResidualBlock(2 * c, c) for c in reversed(sizes[:-1]))
        self.head = nn.Conv2d(width, num_classes, 1)

    def join(self, block: nn.Module, x: Tensor, skip: Tensor) -> Tensor:
        """A step of the way up: x (N, 2C, H, W) through the block, the skip (N, C, H, W) added to its output."""
        joined: Tensor = block(x) + skip
        return joined
