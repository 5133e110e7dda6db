"""The report of an evaluation: its JSON schema, and how it follows from the counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field, model_validator

from core.checkpoints.legacy import upgrade_report
from core.data.datasets import Dataset, relative_names, sequence_ids
from core.evaluation import metrics
from core.evaluation.bootstrap import Interval, confidence_intervals
from core.evaluation.evaluator import EvaluationCounts
from core.inference.options import InferenceOptions

NUM_EXAMPLES = 3  # images in each list of Examples


class CheckpointInfo(BaseModel):
    """Which network was evaluated; `digest` is that of the checkpoint or of the exported model that ran."""

    name: str
    architecture: str
    digest: str
    backend: str


class DataInfo(BaseModel):
    """The dataset, its split and the number of images that were evaluated."""

    name: str
    split: str
    images: int


class ScoringProtocol(BaseModel):
    """How pixels are scored: by default all of them, by argmax, at the label's own size.

    Attributes:
        threshold: Pixels whose softmax does not exceed it are predicted as void; None for argmax.
        score_size: Whether scores are taken at the size of the label or at that of the network's input.
        inference_resolution: Whether images are resized to the network's input, or pass through the network at their
            native resolution in a sliding window.
        hflip_tta: Whether the logits are averaged with those of the horizontally flipped image.
    """

    threshold: float | None = Field(None, ge=0.5, lt=1)
    score_size: Literal["label", "input"] = "label"
    inference_resolution: Literal["network", "native"] = "network"
    hflip_tta: bool = False

    @property
    def inference_options(self) -> InferenceOptions:
        """The part of the protocol that concerns the network rather than the scores."""
        return InferenceOptions(tiled=self.inference_resolution == "native", hflip_tta=self.hflip_tta)

    def describe_inference(self) -> list[str]:
        """Return phrases for what differs from the default in how images pass through the network."""
        native = ["at native resolution"] * (self.inference_resolution == "native")
        return native + ["with horizontal-flip TTA"] * self.hflip_tta

    def describe(self) -> str:
        """Return a phrase for what differs from the default protocol; empty if nothing does."""
        scoring = [f"softmax > {self.threshold}"] * (self.threshold is not None)
        return ", ".join(scoring + ["at the network's size"] * (self.score_size == "input") + self.describe_inference())


DEFAULT_PROTOCOL = ScoringProtocol()
# That of tables that earlier projects of this family have published.
LEGACY_PROTOCOL = ScoringProtocol(threshold=0.5, score_size="input")


class Speed(BaseModel):
    """Images per second of wall-clock time, including decoding, and milliseconds to segment an image."""

    images_per_s: float
    median_ms: float
    p95_ms: float


class ImageScore(BaseModel):
    """An image of the dataset and its mIoU, 0..1, over the classes in its label.

    Attributes:
        index: Index in the split.
        name: Path below the directory that all images of the split have in common.
        miou_present: The mIoU.
    """

    index: int
    name: str
    miou_present: float


class Examples(BaseModel):
    """The images with the lowest and with the highest mIoU, NUM_EXAMPLES each at most; none is in both lists."""

    worst: list[ImageScore] = []
    best: list[ImageScore] = []


class Report(BaseModel):
    """One evaluation. Scores are 0..1, None if undefined; the rows of `confusion` are labels, its last column is void.

    Reports of release 0.1 have no `examples`.
    """

    schema_version: Literal[2] = 2
    checkpoint: CheckpointInfo
    data: DataInfo
    protocol: ScoringProtocol = DEFAULT_PROTOCOL
    scores: metrics.Scores
    classes: list[metrics.ClassScores]
    confusion: list[list[int]]
    intervals: dict[str, Interval | None]
    examples: Examples = Examples()
    speed: Speed

    @model_validator(mode="before")
    @classmethod
    def _upgrade(cls, document: Any) -> Any:
        return upgrade_report(document) if isinstance(document, dict) and "definition" in document else document


def build_report(
    counts: EvaluationCounts,
    checkpoint: CheckpointInfo,
    dataset: Dataset,
    protocol: ScoringProtocol = DEFAULT_PROTOCOL,
) -> Report:
    """Return the report on a whole dataset from its counts, summed over all shards."""
    return Report(
        checkpoint=checkpoint,
        data=DataInfo(name=dataset.name, split=dataset.split, images=len(dataset)),
        protocol=protocol,
        scores=metrics.scores(counts.confusion),
        classes=metrics.class_scores(counts.confusion, dataset.labels),
        confusion=counts.confusion.tolist(),
        intervals=confidence_intervals(counts.per_image, sequence_ids(dataset)),
        examples=choose_examples(counts.per_image, relative_names(dataset)),
        speed=Speed(
            images_per_s=len(dataset) / counts.seconds,
            median_ms=float(np.median(counts.milliseconds)),
            p95_ms=float(np.quantile(counts.milliseconds, 0.95)),
        ),
    )


def choose_examples(per_image: npt.NDArray[np.int64], names: Sequence[str]) -> Examples:
    """Return the images with the lowest and the highest mIoU, equal ones in the order of their names.

    Args:
        per_image: Counts of each image, (N, 3, K); see `metrics.class_totals`. Images that are all void are skipped.
        names: Name of each image.
    """
    miou = metrics.score_vector(per_image)[:, metrics.SCORE_NAMES.index("miou_present")]
    ascending = sorted(np.flatnonzero(np.isfinite(miou)).tolist(), key=lambda index: (miou[index], names[index]))
    worst, others = ascending[:NUM_EXAMPLES], ascending[NUM_EXAMPLES:]
    best = sorted(others, key=lambda index: (-miou[index], names[index]))[:NUM_EXAMPLES]

    def describe(indices: list[int]) -> list[ImageScore]:
        return [ImageScore(index=index, name=names[index], miou_present=float(miou[index])) for index in indices]

    return Examples(worst=describe(worst), best=describe(best))
