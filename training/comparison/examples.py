"""Pictures to look at, chosen by rule and not by hand: typical, best and worst ones, and where the models disagree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from core.intervals import PerImage
from core.metrics import SCORES, leading
from training.run_folder import LEADING

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


def choose_by_score(ious: Floats, drives: Sequence[str], apart: int) -> list[Chosen]:
    """Best, typical and worst pictures by the mean of all models' IoU (M, N), two of each, none twice.

    Pictures of one drive that are fewer than `apart` places from each other show the same street: only one is taken.
    """
    mean = ious.mean(0)
    known = np.flatnonzero(np.isfinite(mean))
    if not known.size:
        return []
    median = np.median(mean[known])
    rules = (("typical", abs(mean - median)), ("best", -mean), ("worst", mean))
    chosen: list[Chosen] = []
    for rule, distance in rules:
        chosen += _first(known[np.argsort(distance[known], kind="stable")], rule, drives, apart, chosen)
    return chosen


def choose_by_disagreement(disagreement: Floats, drives: Sequence[str], apart: int) -> list[Chosen]:
    """Pictures on which the largest share of the pixels gets different classes from different models."""
    order = np.argsort(-disagreement, kind="stable")
    return _first(order[disagreement[order] > 0], "disagreement", drives, apart, [])


def _first(
    order: npt.NDArray[np.int64], rule: str, drives: Sequence[str], apart: int, others: Sequence[Chosen]
) -> list[Chosen]:
    """The first pictures of an order that lie far enough from each other and from others."""
    found: list[Chosen] = []
    for index in order:
        near = [c for c in (*others, *found) if drives[c.index] == drives[index] and abs(c.index - index) < apart]
        if not near:
            found.append(Chosen(int(index), rule))
        if len(found) == OF_EACH:
            break
    return found
