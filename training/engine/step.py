"""One step of training: a global batch through the network in parts, one update, and counts that stay on the device."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import get_total_norm
from torch.optim import Adam

from core.backends.torch_cpu import confusion
from core.images.resize import Preprocess
from training.data.loader import Batch
from training.distributed.context import World
from training.engine.ema import Average
from training.engine.losses import Loss


class Sums:
    """What the steps of an epoch have counted on this rank, on its device: reading it makes the host wait for it."""

    def __init__(self, num_classes: int, device: torch.device) -> None:
        self.counts = torch.zeros(num_classes, num_classes + 1, dtype=torch.int64, device=device)
        self.loss = torch.zeros(2, dtype=torch.float64, device=device)  # loss times valid pixels, valid pixels


class Step:
    """Runs a batch forward and backward and updates the weights, without making the host wait for the device.

    A loss or a gradient that is not finite makes this update and all later ones do nothing (the fused optimizer looks at
    `found_inf` on the device), so that the host may learn of it some steps later and still find the weights whole.
    """

    def __init__(
        self,
        bare: nn.Module,
        network: nn.Module,
        optimizer: Adam,
        loss: Loss,
        world: World,
        preprocess: Preprocess,
        clip: float | None = None,
        average: Average | None = None,
        bf16: bool = False,
        parts: int = 1,
    ) -> None:
        self.bare, self.network = bare, network  # the second is the first, wrapped for ranks or compiled
        self.optimizer, self.loss, self.world = optimizer, loss, world
        self.clip, self.average, self.bf16, self.parts = clip, average, bf16, parts
        device = world.device
        self.scale, self.shift = (torch.from_numpy(v).to(device).view(1, 3, 1, 1) for v in preprocess.factors)
        self.failed = torch.zeros((), device=device)  # 1 from the first update on that was not finite
        self.calls, self.updates = 0, torch.zeros((), dtype=torch.int64, device=device)  # the second: those before it
        # what a gradient scaler would set: the fused step reads them on the device
        optimizer.__dict__.update(found_inf=self.failed, grad_scale=None)

    def __call__(self, batch: Batch, sums: Sums) -> None:
        """This rank's share of a global batch; `sums` is added to in place."""
        images = batch.images.to(self.world.device, non_blocking=True)
        labels = batch.labels.to(self.world.device, non_blocking=True)
        total = self.loss.total(labels)
        if self.world.ranks > 1:
            dist.all_reduce(total)
        parts = min(self.parts, len(images))
        self.optimizer.zero_grad(set_to_none=True)
        share = torch.zeros((), device=self.world.device)
        for place, (x, y) in enumerate(zip(images.tensor_split(parts), labels.tensor_split(parts), strict=True)):
            with self._without_sync(place < parts - 1):
                share += self._forward_backward(x, y, total, sums)
        self._update(share)
        sums.loss += torch.stack((share.double() * total[0], total[0] / self.world.ranks))

    def _forward_backward(self, images: Tensor, labels: Tensor, total: Tensor, sums: Sums) -> Tensor:
        # (N, H, W, 3) seen as (N, 3, H, W) lies in memory as channels-last wants it
        x = images.permute(0, 3, 1, 2).float().mul_(self.scale).sub_(self.shift)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
            logits = self.network(x).float()
        share = self.loss(logits, labels, total)
        # gradients are averaged over the ranks: times their number they are those of the sum of all shares
        (share * self.world.ranks).backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            sums.counts += confusion(labels, logits.argmax(1), logits.shape[1])
        return share.detach()

    def _update(self, loss: Tensor) -> None:
        gradients = [p.grad for p in self.bare.parameters() if p.grad is not None]
        norm = get_total_norm(gradients)
        self.failed.copy_(torch.maximum(self.failed, (~torch.isfinite(norm + loss)).float()))
        self.calls += 1
        self.updates += 1 - self.failed.long()
        if self.clip is not None:
            torch._foreach_mul_(gradients, (self.clip / (norm + 1e-6)).clamp(max=1))
        self.optimizer.step()
        if self.average is not None:
            self.average.update()

    def _without_sync(self, inside: bool) -> AbstractContextManager[None]:
        """Gradients travel between the ranks with the last part of a batch only."""
        wrapped = getattr(self.network, "_orig_mod", self.network)
        if inside and isinstance(wrapped, DistributedDataParallel):
            return wrapped.no_sync()
        return nullcontext()
