"""`report.json` of a comparison: every number that its page shows."""

from __future__ import annotations

from pydantic import BaseModel

from core.checkpoints.checkpoint import TrainingStage
from core.evaluation.bootstrap import Interval
from core.evaluation.metrics import Scores
from core.evaluation.report import Report, ScoringProtocol
from core.images.resize import Size
from training.comparison.memory_probe import PeakMemory
from training.comparison.verdicts import Pair


class Cost(BaseModel):
    """Costs of a model on the computer that ran the comparison; None if not measured."""

    parameters: int
    gflop: float  # of the forward pass on one image; a multiplication and an addition are two operations
    input_size: Size  # (height, width) for the first image of the split
    training_images_per_s: float | None  # for steps of 8 images
    median_ms: float  # from a decoded image to its label map, one image at a time
    p95_ms: float
    peak: PeakMemory | None


class Bin(BaseModel):
    """Pixels of similar confidence."""

    fraction: float  # of the valid pixels
    confidence: float | None  # mean
    accuracy: float | None


class Reliability(BaseModel):
    """Accuracy by confidence, and the expected calibration error (ECE), 0..1."""

    bins: list[Bin]
    ece: float


class AlternativeScores(BaseModel):
    """Scores by the alternative protocol, which by default is the legacy protocol."""

    protocol: ScoringProtocol
    scores: Scores
    confusion: list[list[int]]


class Model(BaseModel):
    """One checkpoint of the comparison."""

    name: str
    architecture: str
    width: int
    epoch: int
    trained_on: str
    stages: tuple[TrainingStage, ...]
    history: list[dict[str, float | None]]  # one row per epoch, stages concatenated; empty if not available
    cost: Cost
    report: Report
    alternative: AlternativeScores
    class_intervals: dict[str, Interval | None]  # 95 % intervals of the IoU by class
    reliability: Reliability


class Example(BaseModel):
    """An image of the grids, and the rule that selected it."""

    index: int  # in the data set
    image: str  # file name
    rule: str  # typical, best, worst or disagreement
    iou: dict[str, float | None]  # by model: mean over the classes in the label of this image
    disagreement: float  # fraction of the valid pixels on which the models disagree


class Environment(BaseModel):
    """What the models ran on."""

    device: str
    backend: str
    torch: str
    threads: int


class Comparison(BaseModel):
    """The whole comparison; scores are fractions, 0..1."""

    command: str
    created: str  # date and time, ISO 8601
    environment: Environment
    data: str
    split: str
    images: int
    sequences: int
    block_lengths: tuple[int, int] | None  # shortest and longest bootstrap block; None if whole sequences are resampled
    models: list[Model]
    pairs: list[Pair]
    architectures: dict[str, list[str]]  # names of the models of each group with at least three seeds
    architecture_pairs: list[Pair]
    published: dict[str, dict[str, float]]  # published micro scores, if the alternative protocol is the legacy one
    examples: list[Example]
