"""Evaluation inside a run: the network in memory on the kept validation split, by all ranks, with its loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from core.data.datasets import Dataset, Sample
from core.evaluation import metrics
from core.evaluation.report import EvaluationCounts, SegmentFn, evaluate_shard
from core.images.decode import RGB
from core.images.encode import Labels
from core.images.resize import Size, resize_label
from core.inference.segmenter import Segmenter
from core.runtime.threads import at_once
from training.distributed.context import World
from training.tracking.progress_bar import bar

MOST = 8  # photographs a round: a stop has to wait for them


class FittedSegmenter:
    """Segments photographs that have the network's size already, as the cache keeps them: the rest is the same.

    The logits of the last call stay, so that the loss needs no second run.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        self.segmenter = segmenter
        self.logits: list[npt.NDArray[np.float32]] = []

    def __call__(self, photos: Sequence[RGB], sizes: Sequence[Size]) -> list[Labels]:
        """Photographs (h, w, 3) uint8 RGB of the network's size to class indices (H, W) uint8 of `sizes`."""
        logits = self.segmenter.logits(photos)
        self.logits = [self.segmenter.backend.host(each) for each in logits]
        return self.segmenter.label_all(logits, sizes)


@dataclass
class Validation:
    """What an evaluation in training gives, over all ranks."""

    loss: float  # cross-entropy in nats per valid pixel, at the network's size
    tally: EvaluationCounts  # counts at the labels' own size


def count_share(
    segment: SegmentFn,
    dataset: Dataset,
    batch_size: int,
    world: World,
    seen: Callable[[Sequence[Sample]], None] = lambda _: None,
    waiting_for_it: Callable[[], None] = lambda: None,
) -> EvaluationCounts:
    """Evaluate this rank's share, with a progress bar; `World.add_tally` makes it the whole.

    `seen` is told each batch, and an empty one where this rank has none left while others have: all ranks call it
    equally often.
    """
    rounds = math.ceil(math.ceil(len(dataset) / world.ranks) / batch_size)
    calls = 0
    with bar("evaluating", world.main, total=len(dataset), unit="image") as shown:

        def progress(_: int, samples: Sequence[Sample]) -> None:
            nonlocal calls
            calls += 1
            seen(samples)
            shown.update(min(len(samples) * world.ranks, len(dataset) - shown.n))

        tally = evaluate_shard(segment, dataset, batch_size, world.rank, world.ranks, progress, world.timeout_s, waiting_for_it)
        while calls < rounds:
            progress(0, [])
    return tally


def validate(
    segmenter: Segmenter,
    dataset: Dataset,
    batch_size: int,
    world: World,
    check: Callable[[], None] = lambda: None,
    waiting_for_it: Callable[[], None] = lambda: None,
) -> Validation:
    """Evaluate the network in memory on samples kept at its size, and its loss on the way.

    `check` is called on every rank after each round, `waiting_for_it` on a rank that waits for pictures; an exception of
    theirs ends the evaluation.
    """
    segment = FittedSegmenter(segmenter)
    sums = np.zeros(2)  # summed cross-entropy, valid pixels

    def seen(samples: Sequence[Sample]) -> None:
        nonlocal sums
        pairs = list(zip(segment.logits, (labels for _, labels in samples), strict=False))
        for loss in at_once(lambda pair: metrics.log_loss(pair[0], resize_label(pair[1], pair[0].shape[1:])), pairs):
            sums += loss
        check()

    tally = count_share(segment, dataset, min(batch_size, MOST), world, seen, waiting_for_it)
    world.add_tally(tally)
    world.add(sums)
    return Validation(float(sums[0] / max(sums[1], 1)), tally)
