"""One training step: forward and backward passes over the micro-batches of a global batch, and one optimizer update."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import get_total_norm
from torch.optim import Adam

from core.images.resize import Preprocess
from training.data.loader import Batch
from training.distributed.context import DistributedContext
from training.engine.ema import ModelEma
from training.engine.losses import SegmentationLoss
from training.engine.running_confusion import confusion_matrix


class EpochAccumulators:
    """Sums over the steps of an epoch on this rank. They stay on its device: reading them synchronizes host and device."""

    def __init__(self, num_classes: int, device: torch.device) -> None:
        self.confusion = torch.zeros(num_classes, num_classes + 1, dtype=torch.int64, device=device)
        self.loss_sums = torch.zeros(2, dtype=torch.float64, device=device)  # loss times valid pixels, valid pixels


class TrainStep:
    """Runs a batch forward and backward and updates the weights, without synchronizing host and device.

    If a loss or a gradient is not finite, this update and all later ones are skipped (the fused optimizer reads `found_inf`
    on the device). So the host may check for it some steps later and still finds the last good weights.

    Args:
        unwrapped: The network whose weights are trained.
        network: The callable for the forward pass: `unwrapped`, or its DDP or compiled wrapper.
        optimizer: A fused optimizer of the parameters of `unwrapped`.
        max_grad_norm: Maximum 2-norm of the gradient of all parameters; None for no clipping.
        ema: The moving average to update after each step, if there is one.
        bf16: Whether the forward pass runs under bf16 autocast.
        accumulation_steps: Number of micro-batches that each rank splits its shard of a batch into.
    """

    def __init__(
        self,
        unwrapped: nn.Module,
        network: nn.Module,
        optimizer: Adam,
        loss: SegmentationLoss,
        context: DistributedContext,
        preprocess: Preprocess,
        max_grad_norm: float | None = None,
        ema: ModelEma | None = None,
        bf16: bool = False,
        accumulation_steps: int = 1,
    ) -> None:
        self.unwrapped, self.network = unwrapped, network
        self.optimizer, self.loss, self.context = optimizer, loss, context
        self.max_grad_norm, self.ema, self.bf16, self.accumulation_steps = max_grad_norm, ema, bf16, accumulation_steps
        self.device = context.device
        scale, shift = (torch.from_numpy(array).to(self.device) for array in preprocess.scale_and_shift)
        self.scale, self.shift = scale.view(1, 3, 1, 1), shift.view(1, 3, 1, 1)
        self.found_inf = torch.zeros((), device=self.device)  # 1 once a loss or gradient was not finite, and from then on
        self.steps_run = 0
        self.updates_applied = torch.zeros((), dtype=torch.int64, device=self.device)  # steps before `found_inf` became 1
        # These attributes are usually set by a GradScaler. The fused optimizer reads `found_inf` on the device.
        optimizer.__dict__.update(found_inf=self.found_inf, grad_scale=None)

    def __call__(self, batch: Batch, accumulators: EpochAccumulators) -> None:
        """Train on this rank's shard of a global batch and add its loss and confusion matrix to `accumulators`."""
        images = batch.images.to(self.device, non_blocking=True)
        labels = batch.labels.to(self.device, non_blocking=True)
        normalizer = self.loss.normalizer(labels)
        if self.context.world_size > 1:
            dist.all_reduce(normalizer)
        micro_batches = min(self.accumulation_steps, len(images))
        self.optimizer.zero_grad(set_to_none=True)
        loss = torch.zeros((), device=self.device)
        for index, (x, y) in enumerate(
            zip(images.tensor_split(micro_batches), labels.tensor_split(micro_batches), strict=True)
        ):
            with self._no_sync_unless(last=index == micro_batches - 1):
                loss += self._forward_backward(x, y, normalizer, accumulators)
        self._update(loss)
        accumulators.loss_sums += torch.stack((loss.double() * normalizer[0], normalizer[0] / self.context.world_size))

    def _forward_backward(self, images: Tensor, labels: Tensor, normalizer: Tensor, accumulators: EpochAccumulators) -> Tensor:
        """Return the loss of a micro-batch: images (N, H, W, 3) uint8 RGB and labels (N, H, W) uint8 train ids."""
        # (N, H, W, 3) permuted to (N, 3, H, W) has the memory format channels-last already.
        x = images.permute(0, 3, 1, 2).float().mul_(self.scale).sub_(self.shift)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
            logits = self.network(x).float()
        loss = self.loss(logits, labels, normalizer)
        # DDP averages the gradients over the ranks, but the losses of the ranks add up: the factor turns mean into sum.
        (loss * self.context.world_size).backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            accumulators.confusion += confusion_matrix(labels, logits.argmax(1), logits.shape[1])
        return loss.detach()

    def _update(self, loss: Tensor) -> None:
        gradients = [p.grad for p in self.unwrapped.parameters() if p.grad is not None]
        norm = get_total_norm(gradients)
        self.found_inf.copy_(torch.maximum(self.found_inf, (~torch.isfinite(norm + loss)).float()))
        self.steps_run += 1
        self.updates_applied += 1 - self.found_inf.long()
        if self.max_grad_norm is not None:
            torch._foreach_mul_(gradients, (self.max_grad_norm / (norm + 1e-6)).clamp(max=1))
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update()

    def _no_sync_unless(self, last: bool) -> AbstractContextManager[None]:
        """Let DDP synchronize the gradients once per step, in the backward pass of the last micro-batch."""
        wrapper = getattr(self.network, "_orig_mod", self.network)  # `_orig_mod`: of a compiled network
        if not last and isinstance(wrapper, DistributedDataParallel):
            return wrapper.no_sync()
        return nullcontext()
