"""Evaluation of a checkpoint outside a training run, on one rank or several, and its report for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from core.backends.base import TORCH
from core.checkpoints.checkpoint import Checkpoint, headline_scores
from core.data.datasets import Dataset, reduce_images
from core.errors import InputError
from core.evaluation.evaluator import InputSizeDataset, require_same_labels
from core.evaluation.report import DEFAULT_PROTOCOL, CheckpointInfo, Report, ScoringProtocol, build_report
from core.images.decode import RGB
from core.images.encode import LabelMap
from core.images.resize import Size
from core.inference.segmenter import Segmenter
from training.data.training_data import validate_samples
from training.distributed.context import DistributedContext
from training.engine.validation import evaluate_rank_shard


def evaluate(
    checkpoint: Checkpoint,
    segmenter: Segmenter,
    dataset: Dataset,
    batch_size: int,
    context: DistributedContext,
    protocol: ScoringProtocol = DEFAULT_PROTOCOL,
) -> Report:
    """Return the report on the whole dataset, the same on every rank; each rank evaluates its shard.

    Raises:
        InputError: Every pixel of the dataset is void, so there are no scores.
    """
    options = protocol.inference_options

    def segment(images: Sequence[RGB], sizes: Sequence[Size]) -> list[LabelMap]:
        return segmenter.predict_batch(images, sizes, protocol.threshold, options)

    if segmenter.needed_size(options):
        dataset = reduce_images(dataset, segmenter.preprocess)
    segmenter(dataset[0][0])  # Warm up: the first run is slower than the others.
    scored = InputSizeDataset(dataset, segmenter.preprocess) if protocol.score_size == "input" else dataset
    counts = evaluate_rank_shard(segment, scored, batch_size, context)
    context.wait_for_all()  # The collectives below have a timeout, for which they would also wait if a node is lost.
    context.all_reduce_counts(counts)
    if not counts.confusion.any():
        raise InputError(
            f"{dataset.name} {dataset.split}: every pixel of every label is void, so there are no scores; check the values of"
            " the label files with python -m training inspect (the labels of Cityscapes' test split are not public)"
        )
    return build_report(counts, checkpoint_info(checkpoint, segmenter), dataset, protocol)


def evaluate_scores(checkpoint: Checkpoint, dataset: Dataset) -> dict[str, float | None]:
    """Return the headline scores of a checkpoint's weights, by torch: an exported model beside its file is not used.

    Raises InputError.
    """
    require_same_labels(checkpoint.metadata.labels, dataset.labels)
    validate_samples(dataset)
    segmenter = Segmenter(checkpoint, backend=TORCH)
    return headline_scores(evaluate(checkpoint, segmenter, dataset, 4, DistributedContext()).scores)


def checkpoint_info(checkpoint: Checkpoint, segmenter: Segmenter) -> CheckpointInfo:
    """Return the identity of the network that runs, for a report."""
    return CheckpointInfo(
        name=checkpoint.name,
        architecture=checkpoint.metadata.architecture.name,
        digest=segmenter.backend.digest,
        backend=segmenter.backend.name,
    )


def format_report(report: Report) -> str:
    """Format a report for the terminal: headline scores with confidence intervals, a line per class that occurs, speed."""

    def number(value: float | None) -> str:
        return "    -" if value is None else f"{value:.3f}"

    def headline(title: str, key: str) -> str:
        interval = report.intervals.get(key)
        suffix = f"  (95 %: {interval[0]:.3f} to {interval[1]:.3f})" if interval else ""
        return f"{title} {number(getattr(report.scores, key))}{suffix}"

    protocol = f" ({report.protocol.describe()})" if report.protocol != DEFAULT_PROTOCOL else ""
    lines = [
        f"{report.checkpoint.name} ({report.checkpoint.architecture}, {report.checkpoint.backend}) on {report.data.images}"
        f" images of {report.data.name} {report.data.split}{protocol}",
        headline("mIoU", "miou"),
        headline("mIoU of the labeled classes", "miou_present"),
        headline("pixel accuracy", "pixel_accuracy"),
        "",
        f"{'':20}{'IoU':>8}{'Dice':>8}{'sens.':>8}{'spec.':>8}{'acc.':>8}",
    ]
    rows = [(c.name, c) for c in report.classes if c.iou is not None]
    for name, scores in (*rows, ("macro mean", report.scores.macro), ("micro", report.scores.micro)):
        values = (scores.iou, scores.dice, scores.sensitivity, scores.specificity, scores.accuracy)
        lines.append(f"{name:20}" + "".join(f"{number(value):>8}" for value in values))
    speed = report.speed
    lines += ["", f"{speed.images_per_s:.1f} images/s, median {speed.median_ms:.1f} ms, 95th percentile {speed.p95_ms:.1f} ms"]
    return "\n".join(lines)
