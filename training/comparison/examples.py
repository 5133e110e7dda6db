"""Example images, selected by rule and not by hand: typical, best and worst ones, and those on which the models disagree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from core.evaluation.bootstrap import PerImage
from core.evaluation.metrics import SCORE_NAMES, score_vector
from training.tracking.run_dir import SELECTION_METRIC

Floats = npt.NDArray[np.float64]
PER_RULE = 2  # images per rule


@dataclass(frozen=True)
class ChosenExample:
    """The index of an image in the data set, and the rule that selected it."""

    index: int
    rule: str


def image_ious(counts: Sequence[PerImage]) -> Floats:
    """Return the IoU of every model on every image, (M, N): the mean over the classes in the image's label."""
    column = SCORE_NAMES.index(SELECTION_METRIC)
    return np.stack([score_vector(model_counts)[:, column] for model_counts in counts])


def choose_by_score(ious: Floats, sequences: Sequence[str]) -> list[ChosenExample]:
    """Select up to two best, worst and typical (nearest the median) images each, by the mean IoU of the models.

    Args:
        ious: IoU of every model on every image, (M, N); NaN if undefined.
        sequences: Sequence of each image.

    No image is selected twice, and the second image of a rule shows another street than the first: see `_far_apart`.
    """
    mean = ious.mean(0)
    defined = np.flatnonzero(np.isfinite(mean))
    if not defined.size:
        return []
    keys = {"best": -mean, "worst": mean, "typical": abs(mean - np.median(mean[defined]))}
    orders = {rule: defined[np.argsort(key[defined], kind="stable")] for rule, key in keys.items()}
    chosen: list[ChosenExample] = []
    for _ in range(PER_RULE):
        for rule, order in orders.items():
            chosen += _next_example(order, rule, sequences, chosen)
    return sorted(chosen, key=lambda example: list(keys).index(example.rule))


def choose_by_disagreement(disagreement: Floats, sequences: Sequence[str]) -> list[ChosenExample]:
    """Select up to two images with the largest fraction of pixels on which the models disagree, (N,)."""
    order = np.argsort(-disagreement, kind="stable")
    order = order[disagreement[order] > 0]
    chosen: list[ChosenExample] = []
    for _ in range(PER_RULE):
        chosen += _next_example(order, "disagreement", sequences, chosen)
    return chosen


def _next_example(
    order: npt.NDArray[np.int64], rule: str, sequences: Sequence[str], chosen: Sequence[ChosenExample]
) -> list[ChosenExample]:
    """Return the first image of `order` that is not chosen yet and far from the others of its rule; [] if there is none."""
    taken = {example.index for example in chosen}
    same_rule = [example.index for example in chosen if example.rule == rule]
    for index in order.tolist():
        if index not in taken and all(_far_apart(index, other, sequences) for other in same_rule):
            return [ChosenExample(index, rule)]
    return []


def _far_apart(first: int, second: int, sequences: Sequence[str]) -> bool:
    """Return whether two images show different streets: other sequences, or a twelfth of the data set between them."""
    return sequences[first] != sequences[second] or abs(first - second) >= len(sequences) // 12
