"""Build the comparison from the counts: scores with intervals, verdicts, reliability, costs, and examples."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from core.data.datasets import Dataset, sequence_ids
from core.data.labels import CITYSCAPES
from core.evaluation import metrics
from core.evaluation.bootstrap import BlockBootstrap, Interval, PerImage, influence, score_intervals
from core.evaluation.metrics import METRIC_NAMES, one_vs_rest_scores
from core.evaluation.reliability import calibration_error
from core.evaluation.report import LEGACY_PROTOCOL, ScoringProtocol, build_report
from core.runtime.cpu import INFERENCE_THREADS
from training.comparison.counting import ModelCounts
from training.comparison.examples import ChosenExample, choose_by_disagreement, choose_by_score, image_ious
from training.comparison.memory_probe import PeakMemory
from training.comparison.models import ComparedModel, group_by_recipe
from training.comparison.schema import AlternativeScores, Bin, Comparison, Cost, Environment, Example, Model, Reliability
from training.comparison.verdicts import compare_architectures, compare_models
from training.evaluation import checkpoint_info
from training.tracking.run_summary import count_gflops, count_parameters

Floats = npt.NDArray[np.float64]
# Scores that earlier publications report for these architectures: Cityscapes val at 256x256 after 200 epochs, by the legacy
# protocol, with void counted as road.
PUBLISHED: dict[str, dict[str, float]] = {
    name: dict(zip(METRIC_NAMES, values, strict=True))
    for name, values in {
        "U-Net": (0.9899, 0.8797, 0.9960, 0.9017, 0.8215),
        "R2U-Net": (0.9871, 0.8296, 0.9958, 0.8710, 0.7722),
        "DDU-Net": (0.9885, 0.8637, 0.9954, 0.8878, 0.7985),
    }.items()
}


@dataclass(frozen=True)
class MeasuredCost:
    """Measured costs of one model; None if not measured."""

    training_images_per_s: float | None
    peak: PeakMemory | None


def summarize(
    models: Sequence[ComparedModel],
    dataset: Dataset,
    counts: Sequence[ModelCounts],
    disagreement: Floats,
    costs: Sequence[MeasuredCost],
    alternative: ScoringProtocol,
    command: str,
) -> Comparison:
    """Build the comparison.

    Args:
        counts: Counts of each model over the data set.
        disagreement: Fraction of the valid pixels of each image on which the models disagree, (N,).
        costs: Measured costs of each model.
        alternative: Protocol of the alternative scores.
        command: The command line, for the report.
    """
    sequences = sequence_ids(dataset)
    blocks = BlockBootstrap(sequences)
    per_image, names = [model_counts.default.per_image for model_counts in counts], [model.name for model in models]
    groups = group_by_recipe(models)
    ious = image_ious(per_image)
    chosen = [*choose_by_score(ious, sequences), *choose_by_disagreement(disagreement, sequences)]
    lengths = np.concatenate([blocks.block_lengths(influence(model_counts)) for model_counts in per_image])
    lengths = lengths[lengths > 0] if lengths.any() else np.ones(1, np.int64)
    return Comparison(
        command=command,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        environment=_environment(models[0]),
        data=dataset.name,
        split=dataset.split,
        images=len(dataset),
        sequences=blocks.num_sequences,
        block_lengths=None if blocks.whole_sequences else (int(lengths.min()), int(lengths.max())),
        models=[
            _model(model, dataset, model_counts, cost, alternative, blocks)
            for model, model_counts, cost in zip(models, counts, costs, strict=True)
        ],
        pairs=compare_models(names, per_image, blocks),
        architectures={group: [names[index] for index in indices] for group, indices in groups.items()},
        architecture_pairs=compare_architectures(groups, per_image, blocks, [model.group_key for model in models]),
        published=PUBLISHED if alternative == LEGACY_PROTOCOL and not dataset.labels.describe_difference(CITYSCAPES) else {},
        examples=[_example(example, dataset, names, ious, disagreement) for example in chosen],
    )


def _model(
    model: ComparedModel,
    dataset: Dataset,
    counts: ModelCounts,
    cost: MeasuredCost,
    alternative: ScoringProtocol,
    blocks: BlockBootstrap,
) -> Model:
    metadata, num_classes = model.checkpoint.metadata, len(dataset.labels)
    report = build_report(counts.default, checkpoint_info(model.checkpoint, model.segmenter), dataset)
    height, width = dataset[0][1].shape
    input_size = metadata.preprocess.output_size(height, width)
    confusion = counts.alternative_confusion
    return Model(
        name=model.name,
        architecture=metadata.architecture.name,
        width=metadata.architecture.width,
        epoch=metadata.epoch,
        trained_on=metadata.data,
        stages=metadata.stages,
        history=model.history,
        cost=Cost(
            parameters=count_parameters(metadata.architecture, num_classes),
            gflop=count_gflops(metadata.architecture, num_classes, input_size),
            input_size=input_size,
            training_images_per_s=cost.training_images_per_s,
            median_ms=report.speed.median_ms,
            p95_ms=report.speed.p95_ms,
            peak=cost.peak,
        ),
        report=report,
        alternative=AlternativeScores(protocol=alternative, scores=metrics.scores(confusion), confusion=confusion.tolist()),
        class_intervals=_class_intervals(counts.default.per_image, blocks, dataset.labels.names),
        reliability=_reliability(counts.reliability),
    )


def _class_intervals(counts: PerImage, blocks: BlockBootstrap, names: Sequence[str]) -> dict[str, Interval | None]:
    """Return the 95 % interval of the IoU of each class."""
    intervals = score_intervals(blocks, counts, lambda c: one_vs_rest_scores(c, c[..., 1, :].sum(-1))["iou"])
    return dict(zip(names, intervals, strict=True))


def _reliability(bins: Floats) -> Reliability:
    total = max(bins[:, 0].sum(), 1)
    return Reliability(
        bins=[
            Bin(
                fraction=pixels / total,
                confidence=confidence / pixels if pixels else None,
                accuracy=correct / pixels if pixels else None,
            )
            for pixels, confidence, correct in bins.tolist()
        ],
        ece=calibration_error(bins),
    )


def _example(chosen: ChosenExample, dataset: Dataset, names: Sequence[str], ious: Floats, disagreement: Floats) -> Example:
    iou = {name: float(value) if np.isfinite(value) else None for name, value in zip(names, ious[:, chosen.index], strict=True)}
    return Example(
        index=chosen.index,
        image=Path(dataset.sample_name(chosen.index)).name,
        rule=chosen.rule,
        iou=iou,
        disagreement=float(disagreement[chosen.index]),
    )


def _environment(model: ComparedModel) -> Environment:
    backend = model.segmenter.backend
    on_gpu = backend.device.startswith("cuda")
    device = torch.cuda.get_device_name(backend.device) if on_gpu else processor_name()
    return Environment(device=device, backend=backend.name, torch=torch.__version__, threads=INFERENCE_THREADS)


def processor_name() -> str:
    """Return the model name of the CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
