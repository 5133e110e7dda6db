"""From counts to the document: scores with intervals, verdicts, reliability, costs, and the pictures to look at."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from core.data.datasets import Dataset, drives
from core.data.labels import CITYSCAPES
from core.evaluation import metrics
from core.evaluation.bootstrap import Blocks, Interval, PerImage, influence, score_intervals
from core.evaluation.metrics import FIVE, five_scores
from core.evaluation.report import EARLIER, Definition, build_report
from core.runtime.cpu import CPU_THREADS
from training.commands.evaluate import info
from training.comparison.contestants import Contestant, same_but_for_the_seed
from training.comparison.counting import Counted, calibration_error
from training.comparison.document import Bin, Comparison, Cost, Example, Machine, Model, Otherwise, Reliability
from training.comparison.examples import Chosen, choose_by_disagreement, choose_by_score, image_ious
from training.comparison.peak import Peak
from training.comparison.verdicts import compare_architectures, compare_models
from training.tracking.model_size import gflop, parameters

Floats = npt.NDArray[np.float64]
# What this family of projects has published: Cityscapes val at 256x256 after 200 epochs, softmax > 0.5, scored at the
# network's size, void counted as road
PUBLISHED: dict[str, dict[str, float]] = {
    name: dict(zip(FIVE, values, strict=True))
    for name, values in {
        "U-Net": (0.9899, 0.8797, 0.9960, 0.9017, 0.8215),
        "R2U-Net": (0.9871, 0.8296, 0.9958, 0.8710, 0.7722),
        "DDU-Net": (0.9885, 0.8637, 0.9954, 0.8878, 0.7985),
    }.items()
}


@dataclass(frozen=True)
class Measured:
    """What was measured of one model beside its scores."""

    training_images_per_s: float | None
    peak: Peak | None


def summarise(
    contestants: Sequence[Contestant],
    dataset: Dataset,
    counted: Sequence[Counted],
    disagreement: Floats,
    measured: Sequence[Measured],
    other: Definition,
    command: str,
) -> Comparison:
    """The whole document."""
    streets = drives(dataset)
    blocks, counts, names = Blocks(streets), [each.exact.per_image for each in counted], [c.name for c in contestants]
    groups = same_but_for_the_seed(contestants)
    ious = image_ious(counts)
    chosen = [*choose_by_score(ious, streets), *choose_by_disagreement(disagreement, streets)]
    lengths = np.concatenate([blocks.lengths(influence(each)) for each in counts])
    lengths = lengths[lengths > 0] if lengths.any() else np.ones(1, np.int64)
    return Comparison(
        command=command,
        made=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        machine=_machine(contestants[0]),
        data=dataset.name,
        split=dataset.split,
        images=len(dataset),
        drives=blocks.drives,
        block_lengths=None if blocks.whole_drives else (int(lengths.min()), int(lengths.max())),
        models=[
            _model(contestant, dataset, each, costs_of_it, other, blocks)
            for contestant, each, costs_of_it in zip(contestants, counted, measured, strict=True)
        ],
        pairs=compare_models(names, counts, blocks),
        architectures={name: [names[place] for place in places] for name, places in groups.items()},
        architecture_pairs=compare_architectures(groups, counts, blocks, [c.kind for c in contestants]),
        published=PUBLISHED if other == EARLIER and not dataset.labels.difference(CITYSCAPES) else {},
        examples=[_example(each, dataset, names, ious, disagreement) for each in chosen],
    )


def _model(
    contestant: Contestant, dataset: Dataset, counted: Counted, measured: Measured, other: Definition, blocks: Blocks
) -> Model:
    card, classes = contestant.checkpoint.card, len(dataset.labels)
    report = build_report(counted.exact, info(contestant.checkpoint, contestant.segmenter), dataset)
    height, width = dataset[0][1].shape
    input_size = card.preprocess.shape(height, width)
    cost = Cost(
        parameters=parameters(card.architecture, classes),
        gflop=gflop(card.architecture, classes, input_size),
        input_size=input_size,
        training_images_per_s=measured.training_images_per_s,
        median_ms=report.speed.median_ms,
        p95_ms=report.speed.p95_ms,
        peak=measured.peak,
    )
    return Model(
        name=contestant.name,
        architecture=card.architecture.name,
        width=card.architecture.width,
        epoch=card.epoch,
        trained_on=card.data,
        legs=card.legs,
        history=contestant.history,
        cost=cost,
        report=report,
        otherwise=Otherwise(definition=other, scores=metrics.scores(counted.other), confusion=counted.other.tolist()),
        class_intervals=_class_intervals(counted.exact.per_image, blocks, dataset.labels.names),
        reliability=_reliability(counted.reliability),
    )


def _class_intervals(counts: PerImage, blocks: Blocks, names: Sequence[str]) -> dict[str, Interval | None]:
    return dict(zip(names, score_intervals(blocks, counts, lambda c: five_scores(c, c[..., 1, :].sum(-1))["iou"]), strict=True))


def _reliability(bins: Floats) -> Reliability:
    total = max(bins[:, 0].sum(), 1)
    return Reliability(
        bins=[
            Bin(share=count / total, confidence=sure / count if count else None, accuracy=right / count if count else None)
            for count, sure, right in bins.tolist()
        ],
        ece=calibration_error(bins),
    )


def _example(chosen: Chosen, dataset: Dataset, names: Sequence[str], ious: Floats, disagreement: Floats) -> Example:
    scores = {name: float(iou) if np.isfinite(iou) else None for name, iou in zip(names, ious[:, chosen.index], strict=True)}
    return Example(
        index=chosen.index,
        image=Path(dataset.where(chosen.index)).name,
        rule=chosen.rule,
        iou=scores,
        disagreement=float(disagreement[chosen.index]),
    )


def _machine(contestant: Contestant) -> Machine:
    backend = contestant.segmenter.backend
    gpu = backend.device.startswith("cuda")
    device = torch.cuda.get_device_name(backend.device) if gpu else processor()
    return Machine(device=device, torch=torch.__version__, threads=CPU_THREADS)


def processor() -> str:
    """The name of the CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
