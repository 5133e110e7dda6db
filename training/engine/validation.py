"""Evaluation of this rank's shard of a dataset, and validation during training with the network in memory.

Imports no torch: `evaluate` uses it with exported models too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from core.data.datasets import Dataset, Sample
from core.evaluation import metrics
from core.evaluation.evaluator import EvaluationCounts, SegmentFn, evaluate_shard
from core.images.decode import RGB
from core.images.encode import LabelMap
from core.images.resize import Size, resize_label
from core.inference.segmenter import Segmenter
from core.runtime.threads import parallel_map
from training.distributed.context import DistributedContext
from training.tracking.progress_bar import progress_bar

MAX_BATCH = 8  # images per round of a validation: a requested stop waits for the end of the round


class PreresizedSegmenter:
    """Segments images that already have the network's size, as the cache stores them; otherwise as `Segmenter` does.

    `last_logits` holds the logits (K, h, w) float32 of the last call, so the loss needs no second forward pass.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        self.segmenter = segmenter
        self.last_logits: list[npt.NDArray[np.float32]] = []

    def __call__(self, images: Sequence[RGB], sizes: Sequence[Size]) -> list[LabelMap]:
        """Segment images (h, w, 3) uint8 RGB of the network's size; the label maps (H, W) uint8 have the given `sizes`."""
        logits = self.segmenter.forward_batch(images)
        self.last_logits = [self.segmenter.backend.to_numpy(array) for array in logits]
        return self.segmenter.postprocess_batch(logits, sizes)


@dataclass
class ValidationResult:
    """Loss and counts of a validation, over all ranks."""

    loss: float  # cross-entropy in nats per valid pixel, at the network's size
    counts: EvaluationCounts  # at the labels' original size


def validate(
    segmenter: Segmenter,
    dataset: Dataset,
    batch_size: int,
    context: DistributedContext,
    on_round: Callable[[], None] = lambda: None,
    on_wait: Callable[[], None] = lambda: None,
) -> ValidationResult:
    """Evaluate the network in memory, with its loss, on samples that are stored at its size. A collective.

    Args:
        on_round: Called on every rank after each round, equally often on all of them.
        on_wait: Called about once a second on a rank that waits for images.

    An exception that one of them raises ends the validation.
    """
    segment = PreresizedSegmenter(segmenter)
    sums = np.zeros(2)  # summed cross-entropy, valid pixels

    def on_batch(samples: Sequence[Sample]) -> None:
        nonlocal sums
        pairs = list(zip(segment.last_logits, (labels for _, labels in samples), strict=False))
        for batch_sums in parallel_map(
            lambda pair: metrics.cross_entropy_sum(pair[0], resize_label(pair[1], pair[0].shape[1:])), pairs
        ):
            sums += batch_sums
        on_round()

    counts = evaluate_rank_shard(segment, dataset, min(batch_size, MAX_BATCH), context, on_batch, on_wait)
    context.all_reduce_counts(counts)
    context.all_reduce_sum(sums)
    return ValidationResult(float(sums[0] / max(sums[1], 1)), counts)


def evaluate_rank_shard(
    segment: SegmentFn,
    dataset: Dataset,
    batch_size: int,
    context: DistributedContext,
    on_batch: Callable[[Sequence[Sample]], None] = lambda _: None,
    on_wait: Callable[[], None] = lambda: None,
) -> EvaluationCounts:
    """Evaluate this rank's shard with a progress bar; `all_reduce_counts` sums the shards.

    Args:
        on_batch: Called with the samples of each batch. Ranks with fewer batches call it with an empty list at the end, so
            that all ranks call it equally often and it may contain collectives.
        on_wait: Called about once a second while a batch is read.
    """
    rounds = math.ceil(math.ceil(len(dataset) / context.world_size) / batch_size)
    finished = 0
    with progress_bar("evaluating", context.is_main, total=len(dataset), unit="image") as bar:

        def finish_round(_: int, samples: Sequence[Sample]) -> None:
            nonlocal finished
            finished += 1
            on_batch(samples)
            bar.update(min(len(samples) * context.world_size, len(dataset) - bar.n))

        counts = evaluate_shard(
            segment, dataset, batch_size, context.rank, context.world_size, finish_round, context.timeout_s, on_wait
        )
        while finished < rounds:
            finish_round(0, [])
    return counts
