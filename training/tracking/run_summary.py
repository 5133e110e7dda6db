"""Summary of a run before its first step: model size, compute, memory and settings, and then the estimated time."""

from __future__ import annotations

import time
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from core.checkpoints.checkpoint import Architecture
from core.data.datasets import ConcatDataset
from core.images.resize import Size
from core.models import build_model
from training.config import TrainConfig
from training.data.loader import DistributedBatchSampler
from training.distributed.context import DistributedContext

SLOW_WIDTH = 32  # above this width, a training step takes seconds on a CPU
BYTES_PER_PARAMETER = 16  # the weight, its gradient and Adam's two moments, in fp32
WARMUP_STEPS = 20  # steps before the time is estimated; an epoch with fewer steps is measured as a whole
SLOW_FACTOR, SLOW_SECONDS = 1.5, 10.0  # an epoch that exceeds its estimate by both is reported


def print_run_summary(
    config: TrainConfig,
    context: DistributedContext,
    precision: str,
    train_set: ConcatDataset,
    val_set: ConcatDataset,
    batches: DistributedBatchSampler,
) -> None:
    """Print one screen of facts about a run: model, data, schedule, devices, memory and output files."""
    architecture, num_classes = Architecture(name=str(config.model), width=config.width), len(train_set.labels)
    parameters = count_parameters(architecture, num_classes)
    gflops = count_gflops(architecture, num_classes, config.size)
    micro_batch = max(1, config.batch_size // context.world_size // config.accumulate)
    activations = micro_batch * activation_bytes(architecture, num_classes, config.crop or config.size)
    if precision == "bf16":
        activations /= 2
    memory = _format_bytes(parameters * BYTES_PER_PARAMETER + activations)
    height, width = config.size
    on_gpu = context.device.type == "cuda"
    if on_gpu:
        devices = f"{context.world_size} x {torch.cuda.get_device_name()}"
        memory += f" of {torch.cuda.get_device_properties(context.device).total_memory / 1e9:.0f} GB"
    else:
        devices = f"CPU, {torch.get_num_threads()} threads"
        devices += f" in each of {context.world_size} processes" if context.world_size > 1 else ""
    lines = [
        (
            "model",
            f"{config.model}, width {config.width}: {parameters:,} parameters, {gflops:.1f} GFLOP per {height}x{width} image",
        ),
        ("data", f"{train_set.name}: {len(train_set)} training and {len(val_set)} validation images, {num_classes} classes"),
        *_part_lines(train_set, val_set),
        ("epochs", f"{config.epochs} of {len(batches)} steps of {config.batch_size} images, {config.augment} augmentation"),
        ("loss", f"{config.loss}, Adam, learning rate {config.learning_rate:g} ({config.schedule}), {precision}"),
        ("devices", devices),
        ("memory", f"about {memory} per process for the training steps"),
        ("run", str(config.run_dir)),
        ("curves", f"tensorboard --logdir {config.run_dir.parent}"),
    ]
    if batches.dropped:
        lines.append(
            ("dropped", f"the last {batches.dropped} samples of each epoch: fewer than a batch of {config.batch_size}")
        )
    if context.world_size > 1 and not on_gpu:
        lines.append(("batch norm", "computed per process, not synchronized (torch has no SyncBatchNorm for CPUs)"))
    if not on_gpu and config.width > SLOW_WIDTH:
        lines.append(("hint", f"width {config.width} is slow on a CPU; --width 16 needs a fraction of the compute"))
    print("\n".join(f"{name:>10}  {text}" for name, text in lines), flush=True)


def _part_lines(train_set: ConcatDataset, val_set: ConcatDataset) -> list[tuple[str, str]]:
    """Return a line for each of several datasets."""
    if len(train_set.parts) == 1:
        return []
    val_images = {part.name: len(part) for part in val_set.parts}
    return [
        ("", f"{part.name}: {len(part)} training and {val_images.get(part.name, 0)} validation images")
        for part in train_set.parts
    ]


def count_parameters(architecture: Architecture, num_classes: int) -> int:
    """Return the number of parameters of a network; a layer that is applied several times counts once."""
    return sum(p.numel() for p in _meta_network(architecture, num_classes).parameters())


def count_gflops(architecture: Architecture, num_classes: int, size: Size) -> float:
    """Return the GFLOP (1e9 operations) of a forward pass on one image.

    Args:
        size: Network input (height, width) in pixels.

    A multiplication and an addition are two operations.
    """
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        _meta_network(architecture, num_classes).eval()(torch.empty(1, 3, *size))
    return float(counter.get_total_flops()) / 1e9


def activation_bytes(architecture: Architecture, num_classes: int, size: Size) -> float:
    """Return the bytes per image, in fp32, of the activations that a training step saves for the backward pass.

    Args:
        size: Network input (height, width) in pixels.

    Kernel workspaces and the loss are not included.
    """
    saved: dict[int, Tensor] = {}  # by storage, because several views can share one

    def save(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            saved[tensor.untyped_storage()._cdata] = tensor
        return tensor

    batch = 2  # batch norm rejects a batch with a single value per channel
    network = _meta_network(architecture, num_classes).train()
    with torch.device("meta"), torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        network(torch.empty(batch, 3, *size))
    return sum(tensor.untyped_storage().nbytes() for tensor in saved.values()) / batch


@lru_cache(maxsize=1)
def _meta_network(architecture: Architecture, num_classes: int) -> nn.Module:
    """Build a network on the meta device, which allocates no memory and computes nothing."""
    with torch.device("meta"):
        return build_model(architecture.name, num_classes, architecture.width)


class EtaPrinter:
    """Measures the first training steps, prints the estimated training time once, and once that an epoch takes far longer."""

    def __init__(self, epochs: int, enabled: bool = True) -> None:
        """Estimate for `epochs` remaining epochs; without `enabled`, print nothing."""
        self.epochs = epochs
        self.estimate_due = self.warning_due = enabled
        self._started = 0.0
        self._estimated_step_s: float | None = None

    def step(self, step: int, steps_per_epoch: int) -> None:
        """Record the end of the `step`-th step (1, 2, ...) of this process in an epoch; print the estimate when it is due."""
        if step == 1:
            self._started = time.perf_counter()  # the first step is slower than the others and not measured
        if not self.estimate_due or step < min(WARMUP_STEPS, steps_per_epoch) or step < 2:
            return
        self.estimate_due = False
        self._estimated_step_s = (time.perf_counter() - self._started) / (step - 1)
        epoch_s = self._estimated_step_s * steps_per_epoch
        total = format_duration(epoch_s * self.epochs)
        tqdm.write(
            f"{'time':>10}  about {format_duration(epoch_s)} per epoch, {total} for {self.epochs} epochs, plus validation"
        )

    def end_epoch(self, steps: int) -> None:
        """Print a warning if the steps of an epoch, of which this process did `steps`, took far longer than estimated."""
        if not self.warning_due or self._estimated_step_s is None:
            return
        seconds, estimate = time.perf_counter() - self._started, self._estimated_step_s * (steps - 1)
        if seconds > SLOW_FACTOR * estimate and seconds - estimate > SLOW_SECONDS:
            self.warning_due = False
            tqdm.write(
                f"warning: the steps of this epoch took {seconds / estimate:.1f} times as long as estimated; other processes"
                " may be using the CPU (docs/troubleshooting.md)"
            )


def format_duration(seconds: float) -> str:
    """Format a duration as `42 s`, `3 min 20 s`, `45 min`, `5 h 12 min` or `3 d 4 h`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, days = minutes // 60, minutes // (24 * 60)
    if minutes < 1:
        return f"{rest} s"
    if hours < 1:
        return f"{minutes} min {rest} s" if minutes < 10 else f"{minutes} min"
    if days < 2:
        return f"{hours} h {minutes % 60} min"
    return f"{days} d {hours % 24} h"


def _format_bytes(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
