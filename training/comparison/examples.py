"""Pictures to look at, chosen by rule and not by hand: typical, best and worst ones, and where the models disagree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from core.evaluation.bootstrap import PerImage
from core.evaluation.metrics import SCORES, leading
from training.tracking.run_dir import LEADING

Floats = npt.NDArray[np.float64]
OF_EACH = 2  # pictures for each rule


@dataclass(frozen=True)
class Chosen:
    """The place of a picture in the data set, and why it was taken."""

    index: int
    rule: str


def image_ious(counts: Sequence[PerImage]) -> Floats:
    """IoU of every model on every picture, (M, N): the mean over the classes that the picture's label holds."""
    return np.stack([leading(each)[:, SCORES.index(LEADING)] for each in counts])


def choose_by_score(ious: Floats, drives: Sequence[str]) -> list[Chosen]:
    """Best, worst and typical (nearest the median) pictures by the mean of all models' IoU (M, N): up to two of each.

    None is taken twice, and the second of a rule shows another street than the first: see `_apart`.
    """
    mean = ious.mean(0)
    known = np.flatnonzero(np.isfinite(mean))
    if not known.size:
        return []
    ranks = {"best": -mean, "worst": mean, "typical": abs(mean - np.median(mean[known]))}
    orders = {rule: known[np.argsort(rank[known], kind="stable")] for rule, rank in ranks.items()}
    chosen: list[Chosen] = []
    for _ in range(OF_EACH):
        for rule, order in orders.items():
            chosen += _next(order, rule, drives, chosen)
    return sorted(chosen, key=lambda c: list(ranks).index(c.rule))


def choose_by_disagreement(disagreement: Floats, drives: Sequence[str]) -> list[Chosen]:
    """Pictures on which the largest share of the pixels gets different classes from different models, two at most."""
    order = np.argsort(-disagreement, kind="stable")
    chosen: list[Chosen] = []
    for _ in range(OF_EACH):
        chosen += _next(order[disagreement[order] > 0], "disagreement", drives, chosen)
    return chosen


def _next(order: npt.NDArray[np.int64], rule: str, drives: Sequence[str], chosen: Sequence[Chosen]) -> list[Chosen]:
    """The first picture of an order that is not taken and lies apart from those that its rule has taken; none: []."""
    taken = {c.index for c in chosen}
    mine = [c.index for c in chosen if c.rule == rule]
    for index in order.tolist():
        if index not in taken and all(_apart(index, other, drives) for other in mine):
            return [Chosen(index, rule)]
    return []


def _apart(one: int, other: int, drives: Sequence[str]) -> bool:
    """Whether two pictures show different streets: of two drives, or far from each other in one (a twelfth of all)."""
    return drives[one] != drives[other] or abs(one - other) >= len(drives) // 12
