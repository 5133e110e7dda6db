"""Paired differences between the scores of two models on the same images, with 95 % intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from core.evaluation.bootstrap import BlockBootstrap, Estimate, Interval, PerImage, estimate
from core.evaluation.metrics import SCORE_NAMES, one_vs_rest_scores, score_vector


class Difference(BaseModel):
    """The score of the first model minus that of the second, with its paired 95 % interval; None if undefined."""

    value: float | None
    interval: Interval | None


def describe_estimate(estimated: Estimate) -> list[Difference]:
    """Return each of the differences that were estimated."""
    differences = []
    for value, half_width in zip(estimated.value, estimated.half_widths(), strict=True):
        interval = (float(value - half_width), float(value + half_width)) if np.isfinite(half_width) else None
        differences.append(Difference(value=float(value) if np.isfinite(value) else None, interval=interval))
    return differences


def paired_differences(
    first: PerImage, second: PerImage, sequences: Sequence[str]
) -> tuple[dict[str, Difference], list[Difference]]:
    """Return the differences of the scores by SCORE_NAMES, and those of the IoU of each class.

    Args:
        first: Counts of each image, (N, 3, K), of one model.
        second: Those of the other model on the same images.
        sequences: Sequence of each image; see BlockBootstrap.
    """

    def statistic(counts: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
        iou = one_vs_rest_scores(counts, counts[..., 1, :].sum(-1))["iou"]
        return np.concatenate([score_vector(counts), iou], axis=-1)

    differences = describe_estimate(estimate(BlockBootstrap(sequences), [(1.0, first), (-1.0, second)], statistic))
    num_scores = len(SCORE_NAMES)
    return dict(zip(SCORE_NAMES, differences[:num_scores], strict=True)), differences[num_scores:]
