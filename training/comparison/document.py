"""`report.json` of a comparison: every number that its page shows."""

from __future__ import annotations

from pydantic import BaseModel

from core.checkpoints.checkpoint import Leg
from core.evaluation.bootstrap import Interval
from core.evaluation.metrics import Scores
from core.evaluation.report import Definition, Report
from core.images.resize import Size
from training.comparison.peak import Peak
from training.comparison.verdicts import Pair


class Cost(BaseModel):
    """What a model costs on the machine where the comparison was made; None where it was not measured."""

    parameters: int
    gflop: float  # of one picture at input_size; a multiplication and an addition are two operations
    input_size: Size  # height, width, for the first picture of the split
    training_images_per_s: float | None  # of a step of 8 images
    median_ms: float  # photograph in memory to label map, one at a time
    p95_ms: float
    peak: Peak | None


class Bin(BaseModel):
    """Pixels of about the same confidence."""

    share: float  # of the valid pixels
    confidence: float | None  # mean
    accuracy: float | None


class Reliability(BaseModel):
    """How often the model is right when it is so sure, and the expected calibration error, 0..1."""

    bins: list[Bin]
    ece: float


class Otherwise(BaseModel):
    """Scores by another definition: as a rule the family's earlier one."""

    definition: Definition
    scores: Scores
    confusion: list[list[int]]


class Model(BaseModel):
    """One checkpoint of the comparison."""

    name: str
    architecture: str
    width: int
    epoch: int
    trained_on: str
    legs: tuple[Leg, ...]
    history: list[dict[str, float | None]]  # a row an epoch, legs end to end; none where it is not at hand
    cost: Cost
    report: Report
    otherwise: Otherwise
    class_intervals: dict[str, Interval | None]  # of the IoU
    reliability: Reliability


class Example(BaseModel):
    """A picture of the grids, and the rule that chose it."""

    index: int  # in the data set
    image: str
    rule: str  # typical, best, worst or disagreement
    iou: dict[str, float | None]  # of each model on this picture: mean over the classes that its label holds
    disagreement: float  # share of the valid pixels on which not all models agree


class Machine(BaseModel):
    """Where the times were measured."""

    device: str
    torch: str
    threads: int


class Comparison(BaseModel):
    """The whole comparison; scores are 0..1."""

    command: str
    made: str  # date, ISO 8601
    machine: Machine
    data: str
    split: str
    images: int
    drives: int
    block_lengths: tuple[int, int] | None  # shortest and longest of the scores, in images; None: whole drives are drawn
    models: list[Model]
    pairs: list[Pair]
    architectures: dict[str, list[str]]  # the models of each that has three seeds or more
    architecture_pairs: list[Pair]
    published: dict[str, dict[str, float]]  # micro scores by the earlier definition, where that is the other one
    examples: list[Example]
