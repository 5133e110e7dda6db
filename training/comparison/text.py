"""Sentences and tables of the comparison page."""

from __future__ import annotations

from core.evaluation.bootstrap import MIN_CLUSTERS
from core.evaluation.difference import Difference
from core.evaluation.metrics import METRIC_NAMES, SCORE_NAMES
from core.evaluation.report import LEGACY_PROTOCOL, Report
from training.comparison.models import MIN_SEEDS
from training.comparison.schema import Comparison, Model
from training.comparison.verdicts import signed_percent
from training.tracking.curves import display_name
from training.tracking.run_dir import SELECTION_METRIC

Table = tuple[list[str], list[list[str]]]  # column titles, rows

# The scores in the table of differences; report.json has all of them.
DIFFERENCE_SCORES = (SELECTION_METRIC, "macro_dice", "macro_sensitivity", "pixel_accuracy")
MAX_UNCORRECTED_PAIRS = 3  # with more pairs, the page explains that the intervals are not corrected for their number
UNDEFINED = "–"

ABOUT_SCORES = (
    "In percent, with 95 % confidence intervals; a dash means that the score is undefined or that there are too few images."
    " mIoU (labeled classes) is the mean IoU over the classes that occur in the labels; mIoU also counts classes that are only"
    " predicted. Macro scores are means over classes. Micro scores pool the pixels of all classes: with argmax, all five follow"
    " from the pixel accuracy and the number of classes, so they add no information. Micro IoU is not mIoU."
)
ABOUT_CHECKPOINTS = (
    "Verdicts about single models hold for these checkpoints only. They say nothing about architectures: that needs at least"
    f" {MIN_SEEDS} seeds of each (train --seed 1, --seed 2, ...), because trainings that differ only in their seed also"
    " differ in their scores."
)
ABOUT_COSTS = (
    "Measured on this computer. GFLOP: 1e9 operations of the forward pass on one image; a multiplication and an addition are"
    " two. Training: steps of 8 images at the training size of the model, with forward pass, backward pass and update."
    " Inference: from a decoded image to its label map, one image at a time, the models in turn. Peak memory: of a process that"
    " does nothing but inference, including its libraries."
)
ABOUT_EXAMPLES = (
    "Selected by rule: the images with the highest, the lowest and the most typical (nearest the median) IoU, averaged over the"
    " models, and those with the largest fraction of pixels on which the models disagree. Void pixels are black in the label;"
    " predictions on them are ignored."
)
ABOUT_LEGACY_PROTOCOL = (
    "Earlier publications about these architectures score differently: a pixel gets a class only if its softmax probability is"
    " over 0.5, and pixels are compared at the size of the network's input instead of the label's. With a threshold, micro"
    " scores do distinguish models. The table shows both protocols, for comparison with such results.",
    "One difference remains: these publications count void as road. That rewards predictions of road on unlabeled pixels,"
    " such as the hood of the camera car. Here, void pixels are ignored in both protocols, as the data sets define it. The"
    " published scores are therefore only roughly comparable, and only with those on Cityscapes val at 256x256. Their IoU is"
    " a micro IoU, not mIoU.",
)


def alternative_section(c: Comparison) -> tuple[str, tuple[str, ...]]:
    """Return the title and the paragraphs of the section about the alternative protocol."""
    protocol = c.models[0].alternative.protocol
    if protocol == LEGACY_PROTOCOL:
        return "Scores by the protocol of earlier publications", ABOUT_LEGACY_PROTOCOL
    return f"Scores by another protocol: {protocol.describe() or 'the default'}", ()


def describe_sequences(c: Comparison) -> str:
    """Return the number of sequences, each of which is a directory of the data set."""
    return f"{c.sequences} sequences (drives or cities)" if c.sequences != 1 else "one sequence (drive or city)"


def has_ungrouped_pairs(c: Comparison) -> bool:
    """Return whether a verdict is about a single checkpoint whose architecture has no verdict of its own."""
    grouped = {name for members in c.architectures.values() for name in members}
    return bool(c.pairs) and (not c.architecture_pairs or any(model.name not in grouped for model in c.models))


def notes(c: Comparison) -> list[str]:
    """Return the paragraphs about what the verdicts do and do not cover."""
    paragraphs = [
        f"All models ran on the back end {c.environment.backend}.",
        f"The intervals are bootstrap intervals: images are resampled {_resampling(c.block_lengths)}.",
    ]
    if c.sequences < MIN_CLUSTERS:
        paragraphs.append(
            f"The images come from {describe_sequences(c)}: the intervals cover other images of the same"
            " kind, not other streets."
        )
    if c.split == "val":
        paragraphs.append(
            "The best epoch of a training is selected by its score on the val split, so scores on these images are slightly"
            " higher than on others."
        )
    for name, members in c.architectures.items():
        paragraphs.append(f"{name}: one recipe, {len(members)} seeds ({', '.join(members)}).")
    if has_ungrouped_pairs(c):
        paragraphs.append(ABOUT_CHECKPOINTS)
    if len(c.pairs) > MAX_UNCORRECTED_PAIRS:
        paragraphs.append("Each interval holds for one pair: of many pairs, about one in twenty misses the true difference.")
    return paragraphs


def _resampling(block_lengths: tuple[int, int] | None) -> str:
    reason = "because consecutive frames of a video are correlated and carry less information than independent images"
    if block_lengths is None:
        return f"as whole sequences (drives or cities), {reason}"
    if block_lengths == (1, 1):
        return "one by one, because the scores of neighboring images are not correlated"
    shortest, longest = block_lengths
    return f"in blocks of {shortest} to {longest} consecutive images, depending on the score, {reason}"


def tables(c: Comparison) -> dict[str, Table]:
    """Return the tables of the page by name; in the large ones, models are columns so that three fit on a phone."""
    names = [model.name for model in c.models]
    micro = [f"micro {display_name(name)}" for name in METRIC_NAMES]
    result: dict[str, Table] = {
        "scores": (["", *names], _score_rows(c)),
        "costs": (["", *names], [[title, *map(cell, c.models)] for title, cell in COST_ROWS.items()]),
    }
    if c.pairs:
        rows = [
            [f"{pair.first} minus {pair.second}", *(_difference(pair.differences[key]) for key in DIFFERENCE_SCORES)]
            for pair in (*c.pairs, *c.architecture_pairs)
        ]
        result["differences"] = (["", *map(display_name, DIFFERENCE_SCORES)], rows)
    rows = []
    for model in c.models:
        alternative = model.alternative
        for protocol, scores in (("", model.report.scores), (alternative.protocol.describe(), alternative.scores)):
            micro_scores = (percent(getattr(scores.micro, name), 2) for name in METRIC_NAMES)
            title = f"{model.name}, {protocol or 'default protocol'}"
            rows.append([title, *micro_scores, percent(getattr(scores, SELECTION_METRIC), 2)])
    result["protocols"] = (["", *micro, display_name(SELECTION_METRIC)], rows)
    if c.published:
        rows = [[name, *(percent(scores[key], 2) for key in METRIC_NAMES)] for name, scores in c.published.items()]
        result["published"] = (["published, Cityscapes val, void counted as road", *micro], rows)
    return result


def _score_rows(c: Comparison) -> list[list[str]]:
    keys = [SELECTION_METRIC, *(name for name in SCORE_NAMES if name != SELECTION_METRIC)]
    rows = [[display_name(key), *(_score(model.report, key) for model in c.models)] for key in keys]
    return [*rows, ["calibration error (ECE)", *(percent(model.reliability.ece) for model in c.models)]]


def _peak_memory(model: Model) -> str:
    peak = model.cost.peak
    if peak is None:
        return UNDEFINED
    return f"{peak.process_mb:,.0f} MB" + (f" + {peak.gpu_mb:,.0f} MB on the GPU" if peak.gpu_mb is not None else "")


def _training_speed(model: Model) -> str:
    speed = model.cost.training_images_per_s
    return UNDEFINED if speed is None else f"{speed:.1f}"


def _trained_on(model: Model) -> str:
    stages = f" of the last of {len(model.stages)} stages" if len(model.stages) > 1 else ""
    return f"{model.trained_on}, epoch {model.epoch}{stages}"


COST_ROWS = {
    "architecture": lambda m: f"{m.architecture}, width {m.width}",
    "parameters": lambda m: f"{m.cost.parameters:,}",
    "input size (height x width)": lambda m: "{} x {}".format(*m.cost.input_size),
    "GFLOP per image": lambda m: f"{m.cost.gflop:.1f}",
    "training, images/s": _training_speed,
    "inference, median": lambda m: f"{m.cost.median_ms:.0f} ms",
    "inference, 95th percentile": lambda m: f"{m.cost.p95_ms:.0f} ms",
    "back end": lambda m: m.report.checkpoint.backend,
    "peak memory": _peak_memory,
    "trained on": _trained_on,
}


def percent(fraction: float | None, digits: int = 1) -> str:
    """Format a fraction as a percentage without the sign, or a dash if it is undefined."""
    return UNDEFINED if fraction is None else f"{100 * fraction:.{digits}f}"


def _score(report: Report, name: str) -> str:
    interval = report.intervals.get(name)
    return percent(report.scores.by_name()[name]) + (f" ({percent(interval[0])} to {percent(interval[1])})" if interval else "")


def _difference(difference: Difference) -> str:
    value, interval = difference.value, difference.interval
    if value is None:
        return UNDEFINED
    return signed_percent(value) + (f" ({signed_percent(interval[0])} to {signed_percent(interval[1])})" if interval else "")
