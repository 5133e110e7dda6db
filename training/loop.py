"""The training loop: steps, an evaluation and a checkpoint after every epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from core import evaluation, metrics
from core.backends.torch_ import confusion
from core.datasets import Dataset, Sample
from core.images import RGB
from core.labels import VOID
from core.masks import Labels
from core.segmenter import Segmenter
from core.transforms import resize_label
from training.distributed import World
from training.progress import bar
from training.run_folder import Row

SHOW_EVERY = 10  # steps between two looks at the loss: reading it makes the host wait for the device


@dataclass
class Epoch:
    """What an epoch of training counted, over all ranks."""

    loss: float  # cross-entropy in nats per valid pixel
    confusion: metrics.Counts
    images_per_s: float
    seconds: float


def train_epoch(
    network: nn.Module,
    optimizer: Optimizer,
    batches: Iterable[tuple[Tensor, Tensor]],
    rates: Sequence[float],
    num_classes: int,
    batch_size: int,
    world: World,
    title: str,
) -> Epoch:
    """One pass over the training batches, each with its learning rate; `network` is the one to call (wrapped, where
    there are several ranks)."""
    network.train()
    counts = torch.zeros(num_classes, num_classes + 1, dtype=torch.int64, device=world.device)
    loss_sum = torch.zeros(2, dtype=torch.float64, device=world.device)  # summed cross-entropy, valid pixels
    start, steps = time.perf_counter(), 0
    with bar(title, world.main, batches, unit="step") as shown:
        for (images, labels), rate in zip(shown, rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate
            images = images.to(world.device, non_blocking=True).to(memory_format=torch.channels_last)
            labels = labels.to(world.device, non_blocking=True)
            logits, summed, valid = train_step(network, optimizer, images, labels, world)
            with torch.no_grad():
                counts += confusion(labels, logits.argmax(1), num_classes)
                loss_sum += torch.stack((summed.double(), valid.double()))
            steps += 1
            if steps % SHOW_EVERY == 0 or steps == 1:
                speed = steps * batch_size / (time.perf_counter() - start)
                mean = float(summed) / max(float(valid), 1)
                shown.set_postfix_str(f"loss {mean:.3f}, {speed:.1f} images/s", refresh=False)
    totals, matrix = loss_sum.cpu().numpy(), counts.cpu().numpy()
    world.add(totals)
    world.add(matrix)
    seconds = time.perf_counter() - start
    return Epoch(float(totals[0] / max(totals[1], 1)), matrix, steps * batch_size / seconds, seconds)


def learning_rates(schedule: str, base: float, epoch: int, epochs: int, steps: int) -> list[float]:
    """The learning rate of every step of an epoch (1, 2, ...): constant, or half a cosine from `base` to zero.

    A pure function of the position, so that nothing of it has to be saved to go on later.
    """
    if schedule == "constant":
        return [base] * steps
    return [base * 0.5 * (1 + math.cos(math.pi * (epoch - 1 + step / steps) / epochs)) for step in range(steps)]


def train_step(
    network: nn.Module, optimizer: Optimizer, images: Tensor, labels: Tensor, world: World
) -> tuple[Tensor, Tensor, Tensor]:
    """One step of cross-entropy over the valid pixels of all ranks; logits, this rank's summed loss and valid pixels.

    `images` (N, 3, H, W) float32, `labels` (N, H, W) uint8 train ids, 255 void.
    """
    logits = network(images)
    targets = labels.long()
    summed = F.cross_entropy(logits, targets, ignore_index=VOID, reduction="sum")
    valid = (targets != VOID).sum()
    everywhere = valid.clone()
    if world.ranks > 1:
        torch.distributed.all_reduce(everywhere)
    # gradients are averaged over the ranks: times their number it is the mean over the valid pixels of all of them
    loss = summed * world.ranks / everywhere.clamp(min=1)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return logits.detach(), summed.detach(), valid


def wrap(network: nn.Module, world: World) -> nn.Module:
    """The network to call in training: itself, or synchronised over the ranks."""
    if world.ranks == 1:
        return network
    if world.device.type == "cuda":
        return DistributedDataParallel(network, device_ids=[world.device])
    return DistributedDataParallel(network, broadcast_buffers=False)


class _LossProbe:
    """Segments as `Segmenter.many` does and sums the cross-entropy on the way, so that nothing is computed twice."""

    def __init__(self, segmenter: Segmenter) -> None:
        self.segmenter = segmenter
        self.logits: list[npt.NDArray[np.float32]] = []
        self.sums = np.zeros(2)  # summed cross-entropy, valid pixels

    def segment(self, photos: Sequence[RGB]) -> list[Labels]:
        self.logits = self.segmenter.logits(photos)
        return [self.segmenter.label(x, rgb.shape[:2]) for x, rgb in zip(self.logits, photos, strict=True)]

    def add(self, samples: Sequence[Sample]) -> None:
        for logits, (_, labels) in zip(self.logits, samples, strict=True):
            self.sums += metrics.log_loss(logits, resize_label(labels, (logits.shape[1], logits.shape[2])))


@dataclass
class Validation:
    """What an evaluation in training gives, over all ranks."""

    loss: float  # cross-entropy in nats per valid pixel, at the network's size
    tally: evaluation.Tally  # counts at the labels' own size


def count_together(
    segment: evaluation.Segment,
    dataset: Dataset,
    batch_size: int,
    world: World,
    seen: Callable[[Sequence[Sample]], None] = lambda _: None,
) -> evaluation.Tally:
    """Evaluate with a progress bar; every rank takes its share and gets the whole. `seen` is told each batch."""
    with bar("evaluating", world.main, total=len(dataset), unit="image") as shown:

        def progress(done: int, samples: Sequence[Sample]) -> None:
            seen(samples)
            shown.update(min(len(samples) * world.ranks, len(dataset) - shown.n))

        tally = evaluation.count(segment, dataset, batch_size, world.rank, world.ranks, progress)
    world.add_tally(tally)
    return tally


def validate(segmenter: Segmenter, dataset: Dataset, batch_size: int, world: World) -> Validation:
    """Evaluate the network in memory, and its loss on the way."""
    probe = _LossProbe(segmenter)
    tally = count_together(probe.segment, dataset, batch_size, world, probe.add)
    world.add(probe.sums)
    return Validation(float(probe.sums[0] / max(probe.sums[1], 1)), tally)


def score_columns(scores: metrics.Scores, prefix: str) -> Row:
    """Scores as columns of the history: leading ones, macro and micro."""
    row: Row = {key: getattr(scores, key) for key in ("pixel_accuracy", "macro_iou", "macro_iou_labelled")}
    for kind in ("macro", "micro"):
        row.update({f"{kind}_{key}": value for key, value in getattr(scores, kind).model_dump().items()})
    return {prefix + key: value for key, value in row.items()}
